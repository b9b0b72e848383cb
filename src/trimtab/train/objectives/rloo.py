"""RLOO by TRL's trainer: an answer is worth what it is above the mean of the others, the reference
kept near by a penalty in the reward. Imports torch and trl.
"""

from pathlib import Path
from typing import Any

from trl.trainer.rloo_trainer import RLOOTrainer
from trl.trainer.utils import nanstd

from trimtab.train.online.rollouts import RolloutTrainer, built
from trimtab.train.prepare import Prepared
from trimtab.train.trainer import SealedTrainer
from trimtab.train.watch.watch import Watch


class SealedRLOO(RolloutTrainer, RLOOTrainer):
    """RLOO over prompts that are tokens already."""

    def __init__(self, **given: Any) -> None:
        super().__init__(**given)
        # TRL's is over the answers at hand.
        self.normalize_advantages = False

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        made: dict[str, Any] = super()._generate_and_score_completions(inputs)
        if kl := self._metrics["train"].get("kl"):
            kl[-1] = self.mean_over_tokens(kl[-1], made["completion_mask"])
        if self.args.normalize_advantages:
            every = self.over_ranks(made["advantages"])
            made["advantages"] = (made["advantages"] - every.mean()) / (nanstd(every) + 1e-4)
        return made


def build(prepared: Prepared, checkpoints: Path, watch: Watch) -> SealedTrainer:
    """A trainer over the prompts in their final order."""
    return built(SealedRLOO, prepared, checkpoints, watch)
