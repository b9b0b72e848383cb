"""FSDP2: weights, gradients and optimizer lie in shards. Imports torch.

`fully_shard` is called here and not by the Trainer, whose `fsdp` option turns into DDP on a CPU
without a word; and that every weight really is a shard is checked on every run.
"""

from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, Shard, distribute_tensor

from trimtab.errors import TrimtabError
from trimtab.train.launchers.ddp import Replicas
from trimtab.train.stream.walk import bare

if TYPE_CHECKING:
    from trimtab.train.launchers.ranked import RankedTrainer


class Shards(Replicas):
    """A group of shards for each layer, and one for what lies outside of the layers."""

    name = "fsdp"

    def shard(self, trainer: "RankedTrainer") -> None:
        # What has been sharded once stays so: the trainer makes its optimizer anew where it must.
        if isinstance(trainer.step, FSDPModule):
            return
        kind = "cuda" if torch.cuda.is_available() else "cpu"
        self._mesh: DeviceMesh = init_device_mesh(kind, (trainer.crew.ranks,))
        causal: Any = bare(trainer.model)
        layers = set(causal._no_split_modules or ())
        for module in causal.modules():
            if type(module).__name__ in layers:
                fully_shard(module, mesh=self._mesh)
        # The step is the root: whatever the loss asks of the model, it is asked inside of it.
        fully_shard(trainer.step, mesh=self._mesh)

    def join(self, trainer: "RankedTrainer", step: torch.nn.Module) -> torch.nn.Module:
        self._root = step
        return step

    def waiting(self, last: bool) -> AbstractContextManager[None]:
        assert isinstance(self._root, FSDPModule)
        self._root.set_requires_gradient_sync(last)
        return nullcontext()

    def clipped(self, trainer: "RankedTrainer") -> Tensor:
        norm = super().clipped(trainer)
        return norm.full_tensor() if isinstance(norm, DTensor) else norm

    def weights(self, model: torch.nn.Module) -> dict[str, Tensor] | None:
        """One tensor after the other is gathered, so that no rank but the first holds them all."""
        kept: dict[str, Tensor] = {}
        for name, value in model.state_dict().items():
            whole = _whole(value)
            if dist.get_rank() == 0:
                kept[name] = whole.cpu()
        return kept

    def optimizer_state(self, trainer: "RankedTrainer") -> dict[str, Any]:
        state: dict[str, Any] = trainer.optimizer.state_dict()
        whole = {
            place: {name: _whole(value) for name, value in each.items()}
            for place, each in state["state"].items()
        }
        return state | {"state": whole}

    def load_optimizer(self, trainer: "RankedTrainer", state: dict[str, Any]) -> None:
        """Each rank cuts its own shards out of the whole state."""
        owners = [p for group in trainer.optimizer.param_groups for p in group["params"]]
        cut = {
            place: {name: _like(value, owners[place]) for name, value in each.items()}
            for place, each in state["state"].items()
        }
        trainer.optimizer.load_state_dict(state | {"state": cut})

    def proof(self, trainer: "RankedTrainer") -> dict[str, Any]:
        ranks, own, total = trainer.crew.ranks, 0, 0
        for name, parameter in trainer.model.named_parameters():
            if not isinstance(parameter, DTensor) or not _is_cut(parameter, self._mesh):
                raise TrimtabError(f"{name} is no shard of {ranks}: the run was not FSDP")
            own += parameter.to_local().numel()
            total += parameter.numel()
        for each in trainer.optimizer.state.values():
            if not all(isinstance(v, DTensor) for v in each.values() if v.dim()):
                raise TrimtabError("the optimizer's state is whole in a rank: the run was not FSDP")
        held = trainer.crew.everyone(own)
        if sum(held) != total:
            raise TrimtabError(f"shards of {held} numbers are not a model of {total}")
        return {"wrapper": "FSDPModule", "numbers": total, "held": held}


def _is_cut(parameter: DTensor, mesh: DeviceMesh) -> bool:
    return parameter.device_mesh == mesh and all(isinstance(p, Shard) for p in parameter.placements)


def _whole(value: Any) -> Any:
    return value.full_tensor() if isinstance(value, DTensor) else value


def _like(value: Any, owner: Tensor) -> Any:
    """A state as its parameter lies: a moment in shards, a count of steps whole."""
    if not isinstance(owner, DTensor) or not isinstance(value, Tensor) or not value.dim():
        return value
    placed = value.to(owner.device)
    # Each rank has it whole: nothing need be sent.
    return distribute_tensor(placed, owner.device_mesh, owner.placements, src_data_rank=None)
