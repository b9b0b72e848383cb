"""DPO and its losses (`train.extra.loss_type`), by TRL's trainer. Imports torch and trl.

The base is the reference: for an adapter it is the same model with the adapter off, for full
fine-tuning a second, frozen copy.
"""

from pathlib import Path
from typing import Any

from datasets import Dataset
from trl.trainer.dpo_trainer import DPOTrainer

from trimtab.train.prepare import Prepared
from trimtab.train.reference import frozen_copy, settle_reference
from trimtab.train.rows import Answers
from trimtab.train.trainer import SealedTrainer, arguments, tokenizer_of
from trimtab.train.watch.watch import Watch


class SealedDPO(SealedTrainer, DPOTrainer):
    """DPO over pairs that are tokens already."""


def build(prepared: Prepared, checkpoints: Path, watch: Watch) -> SealedTrainer:
    """A trainer over the pairs in their final order."""
    trainer = SealedDPO(
        model=prepared.attached.model,
        ref_model=frozen_copy(prepared),
        watch=watch,
        args=arguments(prepared, checkpoints),
        train_dataset=rows(prepared),
        processing_class=tokenizer_of(prepared),
    )
    settle_reference(prepared, trainer.ref_model)
    return trainer


def rows(prepared: Prepared) -> Dataset:
    return Dataset.from_list(pairs(prepared))


def pairs(prepared: Prepared) -> list[dict[str, Any]]:
    """The pairs as TRL's collators take them."""
    return [
        {
            "prompt_ids": list(row.prompt),
            "chosen_ids": list(row.completions[0]),
            "rejected_ids": list(row.completions[1]),
        }
        for row in prepared.laid_out
        if isinstance(row, Answers)
    ]
