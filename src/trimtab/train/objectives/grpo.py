"""GRPO and its losses (`train.extra.loss_type`), by TRL's trainer: an answer is worth what it is
above the others to the same prompt. Imports torch and trl.
"""

from pathlib import Path

from trl.trainer.grpo_trainer import GRPOTrainer

from trimtab.train.prepare import Prepared
from trimtab.train.rollouts import RolloutTrainer, built
from trimtab.train.trainer import SealedTrainer
from trimtab.train.watch import Watch


class SealedGRPO(RolloutTrainer, GRPOTrainer):
    """GRPO over prompts that are tokens already."""


def build(prepared: Prepared, checkpoints: Path, watch: Watch) -> SealedTrainer:
    """A trainer over the prompts in their final order."""
    return built(SealedGRPO, prepared, checkpoints, watch)
