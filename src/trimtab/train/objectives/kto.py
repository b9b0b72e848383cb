"""KTO: single answers, each found good or bad, by TRL's trainer. Imports torch and trl.

Its KL term is estimated on answers that stand behind the prompt of another record: of the same
batch, and where a batch holds one record alone, of the first batch that has another. So there are
two records at least, and the order stays as it is laid out. It is a mean over the whole batch, also
where several ranks share that out.
"""

from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

from datasets import Dataset
from torch import Tensor
from trl.trainer.kto_trainer import KTOTrainer

from trimtab.train.prepare import Prepared
from trimtab.train.reference import frozen_copy, settle_reference
from trimtab.train.rows import Answers
from trimtab.train.trainer import SealedTrainer, arguments, tokenizer_of
from trimtab.train.watch.watch import Watch


class SealedKTO(SealedTrainer, KTOTrainer):
    """KTO over answers that are tokens already."""

    def _compute_kl_logps(self, model: Any, batch: Any) -> Tensor | None:
        """Of every row of the batch, for TRL takes their mean; None where the loss needs no KL."""
        own: Tensor | None = super()._compute_kl_logps(model, batch)  # type: ignore[no-untyped-call]
        return None if own is None else self.over_ranks(own)


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
    settle_reference(prepared, trainer.ref_model)
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
        for batch in mismatched(prepared)
        # A rank without a row of a batch computes one that counts for nothing.
        for row, other in prepared.share.of(batch) or batch[:1]
    ]
    return Dataset.from_list(made)


def mismatched(prepared: Prepared) -> Iterator[list[tuple[Answers, Answers]]]:
    """The rows of each batch, each with that of another record whose answer stands behind its
    prompt.

    The row before it in its batch, of the last row for the first, as TRL takes them; an epoch that
    ends within a batch may put a record beside itself, which is passed over.
    """
    batches = [[row for row in rows if isinstance(row, Answers)] for rows in prepared.batches]
    everything = [row for batch in batches for row in batch]
    for batch in batches:
        yield [(row, _beside(at, batch, everything)) for at, row in enumerate(batch)]


def _beside(at: int, batch: Sequence[Answers], everything: Iterable[Answers]) -> Answers:
    near = [*batch[:at][::-1], *batch[at:][::-1]]
    return next(other for other in chain(near, everything) if other.record != batch[at].record)
