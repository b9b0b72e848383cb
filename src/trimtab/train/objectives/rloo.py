"""RLOO by TRL's trainer: an answer is worth what it is above the mean of the others, the reference
kept near by a penalty in the reward. Imports torch and trl.
"""

from pathlib import Path

from trl.trainer.rloo_trainer import RLOOTrainer

from trimtab.train.prepare import Prepared
from trimtab.train.rollouts import RolloutTrainer, built
from trimtab.train.trainer import SealedTrainer
from trimtab.train.watch import Watch


class SealedRLOO(RolloutTrainer, RLOOTrainer):
    """RLOO over prompts that are tokens already."""


def build(prepared: Prepared, checkpoints: Path, watch: Watch) -> SealedTrainer:
    """A trainer over the prompts in their final order."""
    return built(SealedRLOO, prepared, checkpoints, watch)
