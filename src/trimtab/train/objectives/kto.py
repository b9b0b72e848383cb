"""KTO: single answers, each found good or bad, by TRL's trainer. Imports torch and trl.

Its KL term is estimated on answers that stand behind the prompt of another record: of the same
batch, and where a batch holds one record alone, of the first batch that has another. So there are
two records at least, and the order stays as it is laid out.
"""

from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import Any

from datasets import Dataset
from trl.trainer.kto_trainer import KTOTrainer

from trimtab.train.fused import answer_fast
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
        train_dataset=rows(prepared),
        processing_class=tokenizer_of(prepared),
    )
    forget_copy(prepared.attached.model)
    answer_fast(prepared.attached.model)
    if trainer.ref_model is not None:
        answer_fast(trainer.ref_model)
    return trainer


def rows(prepared: Prepared) -> Dataset:
    """Each answer with the one that the KL is estimated on."""
    made: list[dict[str, Any]] = [
        {
            "prompt_ids": list(row.prompt),
            "completion_ids": list(row.completion),
            "KL_completion_ids": list(other.completion),
            "label": row.good,
        }
        for row, other in mismatched(prepared)
    ]
    return Dataset.from_list(made)


def mismatched(prepared: Prepared) -> Iterator[tuple[Answers, Answers]]:
    """Each row in its order, with the row of another record whose answer stands behind its prompt.

    The row before it in its batch, of the last row for the first, as TRL takes them; an epoch that
    ends within a batch may put a record beside itself, which is passed over.
    """
    laid_out = [row for row in prepared.laid_out if isinstance(row, Answers)]
    start = 0
    for places in prepared.order:
        batch = laid_out[start : start + len(places)]
        for at, row in enumerate(batch):
            near = [*batch[:at][::-1], *batch[at:][::-1]]
            yield row, _of_another(row, chain(near, laid_out))
        start += len(places)


def _of_another(row: Answers, rows: Iterable[Answers]) -> Answers:
    return next(other for other in rows if other.record != row.record)
