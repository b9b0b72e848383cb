"""Reward modelling: a score for which chosen answers come above rejected ones (Bradley and Terry).

By TRL's trainer, over a base with a scalar head in the place of its language head. Imports torch
and trl.
"""

from pathlib import Path

from datasets import Dataset
from trl.trainer.reward_trainer import RewardTrainer

from trimtab.train.objectives.dpo import pairs
from trimtab.train.prepare import Prepared
from trimtab.train.stream.scoring import score_fast
from trimtab.train.trainer import SealedTrainer, arguments, tokenizer_of
from trimtab.train.watch.watch import Watch


class SealedReward(SealedTrainer, RewardTrainer):
    """Reward modelling over pairs that are tokens already."""


def build(prepared: Prepared, checkpoints: Path, watch: Watch) -> SealedTrainer:
    """A trainer over the pairs in their final order."""
    trainer = SealedReward(
        model=prepared.attached.model,
        watch=watch,
        args=arguments(prepared, checkpoints),
        train_dataset=rows(prepared),
        processing_class=tokenizer_of(prepared),
    )
    score_fast(prepared.attached.model)
    return trainer


def rows(prepared: Prepared) -> Dataset:
    """Both whole dialogues of each pair."""
    sides = ("chosen", "rejected")
    return Dataset.from_list(
        [
            {f"{side}_ids": pair["prompt_ids"] + pair[f"{side}_ids"] for side in sides}
            for pair in pairs(prepared)
        ]
    )
