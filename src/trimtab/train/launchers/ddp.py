"""DDP: each rank holds the whole model; gradients are averaged as they are made. Imports torch."""

import hashlib
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from trimtab.errors import TrimtabError

if TYPE_CHECKING:
    from trimtab.train.launchers.ranked import RankedTrainer


class Replicas:
    """What every sharding can be asked. This one has nothing to gather: each rank has it all."""

    name = "none"

    def shard(self, trainer: "RankedTrainer") -> None:
        """Before the optimizer is made: lay the weights over the ranks."""

    def arrange(self, optimizer: torch.optim.Optimizer) -> None:
        """Before the schedule of its rates is made: the optimizer as the sharding takes it."""

    def join(self, trainer: "RankedTrainer", step: torch.nn.Module) -> torch.nn.Module:
        """After the optimizer is made: `step`, whose forward is the loss, as one that the ranks
        compute together.
        """
        # Every trained weight has a gradient in every step, so none need be looked for; and no
        # buffer changes in training.
        self._joined = DistributedDataParallel(step, broadcast_buffers=False)
        return self._joined

    def waiting(self, last: bool) -> AbstractContextManager[None]:
        """Around a batch: whether its gradients are averaged now or with a later batch's."""
        waits: AbstractContextManager[None] = nullcontext() if last else self._joined.no_sync()
        return waits

    def backward(self, loss: Tensor) -> None:
        loss.backward()  # type: ignore[no-untyped-call]

    def clipped(self, trainer: "RankedTrainer") -> Tensor:
        """Clip the gradients of a step; their norm before, over all ranks."""
        norm: Tensor = torch.nn.utils.clip_grad_norm_(
            trainer.model.parameters(), trainer.args.max_grad_norm or float("inf")
        )
        return norm

    def norm(self, before: float) -> float:
        """The norm of a step's gradients, where `clipped` said that it was `before`."""
        return before

    def weights(self, model: torch.nn.Module) -> dict[str, Tensor] | None:
        """Every weight, whole, in the first rank; None where the model's own are whole."""
        return None

    def optimizer_state(self, trainer: "RankedTrainer") -> dict[str, Any]:
        """The optimizer's state, whole, as one process would have it."""
        state: dict[str, Any] = trainer.optimizer.state_dict()
        return state

    def load_optimizer(self, trainer: "RankedTrainer", state: dict[str, Any]) -> None:
        trainer.optimizer.load_state_dict(state)

    def proof(self, trainer: "RankedTrainer") -> dict[str, Any]:
        """What shows that the ranks trained one model together. Raises TrimtabError where they
        did not.
        """
        if not isinstance(self._joined, DistributedDataParallel):
            raise TrimtabError("the ranks were not joined by DDP")
        digest = hashlib.sha256()
        for parameter in trainer.model.parameters():
            if parameter.requires_grad:
                digest.update(parameter.detach().cpu().contiguous().view(torch.uint8).numpy().data)
        found = set(trainer.crew.everyone(digest.hexdigest()))
        if len(found) != 1:
            raise TrimtabError(f"{trainer.crew.ranks} ranks ended with {len(found)} models")
        return {"wrapper": type(self._joined).__name__, "replicas_equal": True}
