"""KTO: single answers, each found good or bad, by TRL's trainer. Imports torch and trl.

Its KL term is estimated on answers that stand behind another prompt of the same batch; so a batch
has two rows at least, and the order stays as it is laid out.
"""

from pathlib import Path
from typing import Any

from datasets import Dataset
from trl.trainer.kto_trainer import KTOTrainer

from trimtab.train.prepare import Prepared
from trimtab.train.reference import forget_copy, frozen_copy
from trimtab.train.rows import Answers
from trimtab.train.trainer import SealedTrainer, arguments, tokenizer_of
from trimtab.train.watch import Watch


class SealedKTO(SealedTrainer, KTOTrainer):
    """KTO over answers that are tokens already."""


def build(prepared: Prepared, checkpoints: Path, watch: Watch) -> SealedTrainer:
    """A trainer over the judged answers in their final order."""
    trainer = SealedKTO(
        model=prepared.attached.model,
        ref_model=frozen_copy(prepared),
        watch=watch,
        args=arguments(prepared, checkpoints),
        train_dataset=Dataset.from_list(_rows(prepared)),
        processing_class=tokenizer_of(prepared),
    )
    forget_copy(prepared.attached.model)
    return trainer


def _rows(prepared: Prepared) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    for places in prepared.order:
        batch = (prepared.checked.examples[at] for at in places)
        answers = [row for row in batch if isinstance(row, Answers)]
        # The answer of the row before, of the last row for the first: each stands behind another's.
        others = [answers[-1], *answers[:-1]]
        found += [
            {
                "prompt_ids": list(row.prompt),
                "completion_ids": list(row.completion),
                "KL_completion_ids": list(other.completion),
                "label": row.good,
            }
            for row, other in zip(answers, others, strict=True)
        ]
    return found
