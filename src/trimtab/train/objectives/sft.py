"""SFT: TRL's trainer with the loss of `loss`, over rows of one record or of several packed ones.

Imports torch and trl.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from torch import Tensor
from torch.nn.functional import pad
from torch.nn.utils.rnn import pad_sequence
from trl.trainer.sft_trainer import SFTTrainer

from trimtab.train.prepare import Prepared
from trimtab.train.room import part_size
from trimtab.train.rows import Example, Row
from trimtab.train.stream.fused import answer_fast
from trimtab.train.stream.loss import parts, stream_logprobs
from trimtab.train.stream.stream import IGNORED, lay_out
from trimtab.train.stream.walk import Model, bare, drops, walkable
from trimtab.train.trainer import SealedTrainer, arguments, tokenizer_of
from trimtab.train.watch.watch import Watch

# XLA compiles a program for each shape that it meets: lengths are rounded up to a multiple.
SHAPES = 64


class SealedSFT(SealedTrainer, SFTTrainer):
    """Takes a batch in parts that fit the memory, where the model is walked by our own code."""

    def __init__(self, trained: Model, **given: Any) -> None:
        super().__init__(model=trained, **given)
        self._trained = trained
        answer_fast(trained)

    def weight(self, row: Row) -> float:
        return row.supervised

    def compute_loss(
        self,
        model: torch.nn.Module,
        inputs: dict[str, Tensor],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """The loss of a batch; of all parts but the last the gradients are added here already."""
        asked: Any = self.args
        plain = asked.loss_type == "nll" and self.label_smoother is None
        ours = model is self._trained and torch.is_grad_enabled() and walkable(self._trained)
        if return_outputs or num_items_in_batch is None or not (plain and ours):
            return super().compute_loss(  # type: ignore[no-untyped-call]
                model, inputs, return_outputs, num_items_in_batch
            )
        seen = inputs["attention_mask"].sum(dim=1).tolist()
        tokens = [row[:end] for row, end in zip(inputs["input_ids"].tolist(), seen, strict=True)]
        labels = [row[:end] for row, end in zip(inputs["labels"].tolist(), seen, strict=True)]
        share = not drops(self._trained)
        before = torch.zeros((), device=inputs["input_ids"].device)
        with self.narrowing():
            *first, last = parts(tokens, part_size(bare(self._trained)))
        for part in (*first, last):
            stream = lay_out([tokens[i] for i in part], [labels[i] for i in part], share=share)
            with self.narrowing():
                loss = -stream_logprobs(self._trained, stream).sum() / num_items_in_batch
            if part is last:
                return loss + before
            self.accelerator.backward(loss)
            before += loss.detach()


def build(prepared: Prepared, checkpoints: Path, watch: Watch) -> SealedTrainer:
    """A trainer over the rows in their final order."""
    owned = {"dataset_kwargs": {"skip_prepare_dataset": True}}
    tokenizer = tokenizer_of(prepared)
    return SealedSFT(
        prepared.attached.model,
        watch=watch,
        args=arguments(prepared, checkpoints, **owned),
        data_collator=Collator(tokenizer.pad_token_id, SHAPES if prepared.machine.platform else 1),
        train_dataset=rows(prepared),
        processing_class=tokenizer,
    )


class Collator:
    """Rows as a batch of records, [records, longest], padded on the right.

    A packed row is taken apart again: what is packed is a step's worth of tokens, and no record
    ever sees another. The length is a whole number of `multiple`.
    """

    def __init__(self, padding: int, multiple: int = 1) -> None:
        self._padding = padding
        self._multiple = multiple

    def __call__(self, rows: Sequence[dict[str, list[list[int]]]]) -> dict[str, Tensor]:
        tokens = [record for row in rows for record in row["input_ids"]]
        labels = [record for row in rows for record in row["labels"]]
        lengths = torch.tensor([len(record) for record in tokens])
        padded = self._padded(tokens, self._padding)
        return {
            "input_ids": padded,
            "labels": self._padded(labels, IGNORED),
            "attention_mask": (torch.arange(padded.shape[1]) < lengths[:, None]).long(),
        }

    def _padded(self, rows: Sequence[Sequence[int]], value: int) -> Tensor:
        # Each row by itself: one list of all would hold the padding number by number.
        each = [torch.tensor(row, dtype=torch.long) for row in rows]
        found = pad_sequence(each, batch_first=True, padding_value=value)
        return pad(found, (0, -found.shape[1] % self._multiple), value=value)


def rows(prepared: Prepared) -> Dataset:
    """The examples as TRL wants pre-tokenised data, a list of records to each row."""
    examples = [
        [record for record in row if isinstance(record, Example)] for row in prepared.packed
    ]
    return Dataset.from_dict(
        {
            "input_ids": [[list(e.tokens) for e in row] for row in examples],
            "labels": [[_labels(e) for e in row] for row in examples],
        }
    )


def _labels(example: Example) -> list[int]:
    pairs = zip(example.tokens, example.mask, strict=True)
    return [token if taught else IGNORED for token, taught in pairs]
