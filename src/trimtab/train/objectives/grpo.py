"""GRPO and its losses (`train.extra.loss_type`), by TRL's trainer: an answer is worth what it is
above the others to the same prompt. Imports torch and trl.
"""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from trl.trainer.grpo_trainer import GRPOTrainer

from trimtab.train.online.rollouts import RolloutTrainer, built
from trimtab.train.prepare import Prepared
from trimtab.train.trainer import SealedTrainer
from trimtab.train.watch.watch import Watch


class SealedGRPO(RolloutTrainer, GRPOTrainer):
    """GRPO over prompts that are tokens already."""

    def _calculate_rewards(self, *given: Any) -> Tensor:
        """Those of all ranks, the own ones first: TRL takes as many from the front for its own."""
        own: Tensor = super()._calculate_rewards(*given)
        return torch.roll(self.over_ranks(own), -self.prepared.share.rank * len(own), dims=0)

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        made: dict[str, Any] = super()._generate_and_score_completions(inputs)
        # Tokens in all ranks, such that the mean over ranks divides by all of them.
        made["num_items_in_batch"] = self.over_ranks(
            made["num_items_in_batch"].float()[None]
        ).mean()
        return made

    def _compute_loss(self, model: Any, inputs: dict[str, Any]) -> Tensor:
        loss: Tensor = super()._compute_loss(model, inputs)  # type: ignore[no-untyped-call]
        if self.loss_type == "bnpo":
            # TRL's mean is over the tokens at hand.
            own = inputs["completion_mask"].sum()
            loss = loss * own / self.counted(own)
        return loss


def build(prepared: Prepared, checkpoints: Path, watch: Watch) -> SealedTrainer:
    """A trainer over the prompts in their final order."""
    return built(SealedGRPO, prepared, checkpoints, watch)
