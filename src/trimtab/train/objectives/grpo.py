"""GRPO and its losses (`train.extra.loss_type`), by TRL's trainer: an answer is worth what it is
above the others to the same prompt. Imports torch and trl.
"""

from pathlib import Path

from trl.trainer.grpo_trainer import GRPOTrainer

from trimtab.train.fused import answer_fast
from trimtab.train.prepare import Prepared
from trimtab.train.reference import forget_copy
from trimtab.train.rollouts import RolloutTrainer
from trimtab.train.trainer import SealedTrainer, arguments, tokenizer_of
from trimtab.train.watch import Watch


class SealedGRPO(RolloutTrainer, GRPOTrainer):
    """GRPO over prompts that are tokens already."""


def build(prepared: Prepared, checkpoints: Path, watch: Watch) -> SealedTrainer:
    """A trainer over the prompts in their final order."""
    trainer = SealedGRPO(
        prepared=prepared,
        model=prepared.attached.model,
        watch=watch,
        args=arguments(prepared, checkpoints, shuffle_dataset=False),
        processing_class=tokenizer_of(prepared),
    )
    forget_copy(prepared.attached.model)
    answer_fast(prepared.attached.model)
    if trainer.ref_model is not None:
        answer_fast(trainer.ref_model)
    return trainer
