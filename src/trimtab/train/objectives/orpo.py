"""ORPO: the chosen answer learnt and its odds raised over the rejected one's, without a reference.

By TRL's experimental trainer, its own rendering left out. Imports torch and trl.
"""

from pathlib import Path
from typing import Any

from datasets import Dataset
from trl.experimental.orpo import ORPOTrainer

from trimtab.train.objectives.dpo import pairs
from trimtab.train.prepare import Prepared
from trimtab.train.stream import IGNORED
from trimtab.train.trainer import SealedTrainer, arguments, tokenizer_of
from trimtab.train.walk import Model, learns_prompt
from trimtab.train.watch import Watch


class SealedORPO(SealedTrainer, ORPOTrainer):
    """ORPO over pairs that are tokens already."""

    def __init__(self, *, model: Model, **given: Any) -> None:
        super().__init__(model=model, **given)
        self._trimmed = None
        if learns_prompt(model):
            self._trimmed = model.register_forward_hook(_of_the_text_alone)

    def finish(self) -> None:
        if self._trimmed is not None:
            self._trimmed.remove()

    def tokenize_row(self, feature: dict[str, Any], model: Any = None) -> dict[str, Any]:
        return feature


def build(prepared: Prepared, checkpoints: Path, watch: Watch) -> SealedTrainer:
    """A trainer over the pairs in their final order."""
    return SealedORPO(
        model=prepared.attached.model,
        watch=watch,
        # The length is kept by the preflight; unset, TRL would speak of it.
        args=arguments(
            prepared,
            checkpoints,
            remove_unused_columns=False,
            max_length=prepared.settings.max_length,
        ),
        train_dataset=rows(prepared),
        processing_class=tokenizer_of(prepared),
    )


def _of_the_text_alone(model: Any, given: tuple[Any, ...], output: Any) -> None:
    """Virtual tokens have logits too, which TRL's other trainers know how to leave out."""
    output["logits"] = output.logits[:, -given[0].shape[1] :]


def rows(prepared: Prepared) -> Dataset:
    return Dataset.from_list([_row(pair) for pair in pairs(prepared)])


def _row(pair: dict[str, Any]) -> dict[str, Any]:
    prompt: list[int] = pair["prompt_ids"]
    row: dict[str, Any] = {"prompt_input_ids": prompt, "prompt_attention_mask": [1] * len(prompt)}
    for side in ("chosen", "rejected"):
        answer: list[int] = pair[f"{side}_ids"]
        row[f"{side}_input_ids"] = prompt + answer
        row[f"{side}_attention_mask"] = [1] * len(prompt + answer)
        row[f"{side}_labels"] = [IGNORED] * len(prompt) + answer
    return row
