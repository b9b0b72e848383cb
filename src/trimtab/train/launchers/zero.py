"""DeepSpeed: ZeRO-2 and ZeRO-3, with what the device has no room for in host memory or on NVMe.

DeepSpeed steps with the optimizer that one process would use, so the steps are the same; that
states really lie in shards, and where, is checked on every run. Imports torch and deepspeed.
"""

import os
import sys
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch import Tensor

from trimtab.errors import TrimtabError, UserError
from trimtab.train.launchers import Launch
from trimtab.train.launchers.builds import clear_dead_locks, folder
from trimtab.train.launchers.ddp import Replicas
from trimtab.train.launchers.zero_state import gathered, restore

if TYPE_CHECKING:
    from trimtab.train.launchers.ranked import RankedTrainer

SHARED_MEMORY = "deepspeed_shm_comm"
FLOAT32 = 4
# Bytes of what is written to NVMe at the least (deepspeed.runtime.swap_tensor.utils.MIN_AIO_BYTES).
LEAST_MOVED = 1024**2


class Zero(Replicas):
    """One engine of DeepSpeed around the step."""

    def __init__(self, launch: Launch) -> None:
        self.name = launch.sharding
        self._stage = int(launch.sharding[-1])
        self._offload = launch.offload

    def arrange(self, optimizer: torch.optim.Optimizer) -> None:
        """Without groups that hold nothing: DeepSpeed drops them, and the schedule would not."""
        optimizer.param_groups[:] = [group for group in optimizer.param_groups if group["params"]]
        self._groups = [list(group["params"]) for group in optimizer.param_groups]

    def join(self, trainer: "RankedTrainer", step: torch.nn.Module) -> torch.nn.Module:
        if self._offload == "nvme":
            must_be_moved(self._groups)
        deepspeed = self._library(trainer)
        config = self.config(trainer.args, trainer.model.config.hidden_size)
        zero = config["zero_optimization"]
        self._whole = zero.get("stage3_param_persistence_threshold", 0)
        self._swapped = zero.get("offload_optimizer", {}).get("nvme_path", "")
        self._engine, *_ = deepspeed.initialize(
            model=step,
            optimizer=trainer.optimizer.optimizer,
            config=config,
            dist_init_required=False,
        )
        trainer.optimizer.step = self._stepped
        joined: torch.nn.Module = self._engine
        return joined

    def _library(self, trainer: "RankedTrainer") -> Any:
        """deepspeed, told of the other ranks, with nothing in the way of what it builds."""
        os.environ |= {
            "RANK": str(trainer.crew.rank),
            "LOCAL_RANK": str(trainer.crew.rank),
            "WORLD_SIZE": str(trainer.crew.ranks),
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}",
        }
        if not torch.cuda.is_available():
            os.environ["DS_ACCELERATOR"] = "cpu"
        if trainer.crew.first:
            clear_dead_locks(folder())
        trainer.crew.wait()
        import deepspeed

        if self._offload == "nvme":
            must_have_aio()
        # On a CPU its own sums over shared memory would have to be compiled first; gloo has them.
        deepspeed.ops.__compatible_ops__[SHARED_MEMORY] = False
        return deepspeed

    def config(self, arguments: Any, width: int) -> dict[str, Any]:
        """DeepSpeed's own (deepspeed.ai/docs/config-json), for the arguments of the trainer and the
        width of a hidden state.
        """
        zero: dict[str, Any] = {"stage": self._stage}
        if self._stage == 3:
            # What stays whole in each rank: norms and the like, as transformers chooses it.
            zero["stage3_param_persistence_threshold"] = 10 * width
        if self._offload != "none":
            place: dict[str, Any] = {"device": self._offload}
            if self._offload == "nvme":
                place["nvme_path"] = str(Path(arguments.output_dir).parent / "offload")
            zero["offload_optimizer"] = place
            if self._stage == 3 and self._offload == "cpu":
                zero["offload_param"] = {"device": "cpu"}
        return {
            "train_micro_batch_size_per_gpu": arguments.per_device_train_batch_size,
            "gradient_accumulation_steps": 1,
            "gradient_clipping": arguments.max_grad_norm,
            "zero_optimization": zero,
            "zero_allow_untested_optimizer": True,
            "zero_force_ds_cpu_optimizer": False,
            "bf16": {"enabled": bool(arguments.bf16)},
            "steps_per_print": sys.maxsize,
        }

    def waiting(self, last: bool) -> AbstractContextManager[None]:
        self._engine.set_gradient_accumulation_boundary(last)
        return nullcontext()

    def backward(self, loss: Tensor) -> None:
        self._engine.backward(loss)

    def _stepped(self, *_: Any) -> None:
        self._engine.step()

    def clipped(self, trainer: "RankedTrainer") -> Tensor:
        """The engine clips in its step; the norm is known after it."""
        return torch.zeros(())

    def norm(self, before: float) -> float:
        return float(self._engine.get_global_grad_norm())

    def weights(self, model: torch.nn.Module) -> dict[str, Tensor] | None:
        if self._stage < 3:
            return None
        import deepspeed

        kept: dict[str, Tensor] = {}
        for name, value in model.state_dict(keep_vars=True).items():
            with deepspeed.zero.GatheredParameters([value] if hasattr(value, "ds_id") else []):
                if dist.get_rank() == 0:
                    kept[name] = value.detach().cpu().clone()
        return kept

    def optimizer_state(self, trainer: "RankedTrainer") -> dict[str, Any]:
        return {} if self._offload == "nvme" else gathered(self._engine.optimizer, self._owners)

    @property
    def _owners(self) -> list[Tensor]:
        """The trained weights, in the order in which the optimizer has them."""
        return [each for group in self._groups for each in group]

    def load_optimizer(self, trainer: "RankedTrainer", state: dict[str, Any]) -> None:
        if self._offload == "nvme":
            raise UserError(
                "a run whose optimizer lies on nvme does not go on from a checkpoint",
                hint="delete the run's folder and run again, or offload to cpu, which goes on",
            )
        restore(self._engine.optimizer, self._owners, state)

    def proof(self, trainer: "RankedTrainer") -> dict[str, Any]:
        ranks, engine = trainer.crew.ranks, self._engine
        if engine.zero_optimization_stage() != self._stage:
            raise TrimtabError(f"DeepSpeed ran at stage {engine.zero_optimization_stage()}")
        if self._stage == 3:
            for name, parameter in trainer.model.named_parameters():
                if parameter.numel() and parameter.ds_numel > self._whole:
                    raise TrimtabError(f"{name} is whole in a rank: the run was not ZeRO-3")
            numbers = sum(p.ds_numel for p in trainer.model.parameters())
            own = sum(p.ds_tensor.numel() for p in trainer.model.parameters())
        else:
            numbers = sum(p.numel() for p in trainer.model.parameters() if p.requires_grad)
            own = sum(int(size) for size in engine.optimizer.partition_size)
        held = trainer.crew.everyone(own)
        # Shards are padded to one length, so together they may be a little more than the whole.
        if max(held) * ranks > 1.05 * numbers + 1024 * ranks:
            raise TrimtabError(f"shards of {held} numbers are not {ranks} parts of {numbers}")
        found = {"wrapper": type(engine).__name__, "numbers": numbers, "held": held}
        if self._offload != "none":
            found |= self._offloaded()
        return found

    def _offloaded(self) -> dict[str, Any]:
        """Where the optimizer's state lies."""
        config = self._engine.zero_offload_optimizer()
        if config is None or config.device != self._offload:
            raise TrimtabError(f"nothing was offloaded to {self._offload}")
        if self._offload == "nvme":
            files = [file for file in Path(self._swapped).rglob("*") if file.is_file()]
            swapped = sum(file.stat().st_size for file in files)
            if not swapped:
                raise TrimtabError("no state of the optimizer lies on nvme")
            return {"offload": "nvme", "bytes": swapped}
        states = self._engine.optimizer.optimizer.state.values()
        places = {str(t.device) for each in states for t in each.values() if torch.is_tensor(t)}
        if places != {"cpu"}:
            raise TrimtabError(f"the optimizer's state lies on {sorted(places)}, not in the host")
        return {"offload": "cpu"}


def must_be_moved(groups: Sequence[Sequence[Tensor]]) -> None:
    """Raises UserError where DeepSpeed would leave the state of every group in memory."""
    largest = max(sum(each.numel() for each in group) for group in groups)
    if FLOAT32 * largest < LEAST_MOVED:
        raise UserError(
            f"offload to nvme: the optimizer steps {largest} weights at a time, and DeepSpeed "
            f"leaves fewer than {LEAST_MOVED // FLOAT32} in memory",
            hint="leave train.launcher out, or set train.launcher.offload to cpu",
        )


def must_have_aio() -> None:
    """Raises UserError where DeepSpeed cannot build what reads and writes NVMe for it."""
    from deepspeed.ops.op_builder import AsyncIOBuilder

    if not AsyncIOBuilder().is_compatible():
        raise UserError(
            "offload to nvme: DeepSpeed finds no libaio to build its async_io with",
            hint="apt-get install g++ libaio-dev, or set train.launcher.offload to cpu",
        )
