"""SFT: TRL's trainer with the loss of `loss`. Imports torch and trl."""

from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from torch import Tensor
from trl.trainer.sft_trainer import SFTTrainer

from trimtab.train.loss import IGNORED, Model, label_logprobs, shares_prefix
from trimtab.train.prepare import Prepared
from trimtab.train.rows import Example, Row
from trimtab.train.trainer import SealedTrainer, arguments, tokenizer_of
from trimtab.train.watch import Watch


class SealedSFT(SealedTrainer, SFTTrainer):
    """Computes a prefix that all rows share once, where that gives the same gradients."""

    def __init__(self, trained: Model, **given: Any) -> None:
        super().__init__(model=trained, **given)
        self._trained = trained

    def weight(self, row: Row) -> float:
        return row.supervised

    def compute_loss(
        self,
        model: torch.nn.Module,
        inputs: dict[str, Tensor],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        if return_outputs or not shares_prefix(self._trained):
            return super().compute_loss(  # type: ignore[no-untyped-call]
                model, inputs, return_outputs, num_items_in_batch
            )
        logprobs = label_logprobs(self._trained, inputs["input_ids"], inputs["labels"])
        return -logprobs.sum() / (num_items_in_batch or len(logprobs))


def build(prepared: Prepared, checkpoints: Path, watch: Watch) -> SealedTrainer:
    """A trainer over the examples in their final order."""
    owned = {"dataset_kwargs": {"skip_prepare_dataset": True}}
    return SealedSFT(
        prepared.attached.model,
        watch=watch,
        args=arguments(prepared, checkpoints, **owned),
        train_dataset=rows(prepared),
        processing_class=tokenizer_of(prepared),
    )


def rows(prepared: Prepared) -> Dataset:
    """The examples as TRL wants pre-tokenised data."""
    laid_out = [row for row in prepared.laid_out if isinstance(row, Example)]
    labels = [
        [token if taught else IGNORED for token, taught in zip(e.tokens, e.mask, strict=True)]
        for e in laid_out
    ]
    return Dataset.from_dict({"input_ids": [list(e.tokens) for e in laid_out], "labels": labels})
