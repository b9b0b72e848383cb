"""ORPO: the chosen answer learnt and its odds raised over the rejected one's, without a reference.

By TRL's experimental trainer, its own rendering left out. Imports torch and trl.
"""

from pathlib import Path
from typing import Any

from datasets import Dataset
from trl.experimental.orpo import ORPOTrainer

from trimtab.train.loss import IGNORED
from trimtab.train.objectives.dpo import pairs
from trimtab.train.prepare import Prepared
from trimtab.train.trainer import SealedTrainer, arguments, tokenizer_of
from trimtab.train.watch import Watch


class SealedORPO(SealedTrainer, ORPOTrainer):
    """ORPO over pairs that are tokens already."""

    def tokenize_row(self, feature: dict[str, Any], model: Any = None) -> dict[str, Any]:
        return feature


def build(prepared: Prepared, checkpoints: Path, watch: Watch) -> SealedTrainer:
    """A trainer over the pairs in their final order."""
    return SealedORPO(
        model=prepared.attached.model,
        watch=watch,
        args=arguments(prepared, checkpoints, remove_unused_columns=False),
        train_dataset=Dataset.from_list([_row(pair) for pair in pairs(prepared)]),
        processing_class=tokenizer_of(prepared),
    )


def _row(pair: dict[str, Any]) -> dict[str, Any]:
    prompt: list[int] = pair["prompt_ids"]
    row: dict[str, Any] = {"prompt_input_ids": prompt, "prompt_attention_mask": [1] * len(prompt)}
    for side in ("chosen", "rejected"):
        answer: list[int] = pair[f"{side}_ids"]
        row[f"{side}_input_ids"] = prompt + answer
        row[f"{side}_attention_mask"] = [1] * len(prompt + answer)
        row[f"{side}_labels"] = [IGNORED] * len(prompt) + answer
    return row
