"""ORPO: the chosen answer learnt and its odds raised over the rejected one's, without a reference.

By TRL's experimental trainer, its own rendering left out. Imports torch and trl.
"""

from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from trl.experimental.orpo import ORPOTrainer
from trl.trainer.utils import add_fused_lm_head

from trimtab.train.objectives.dpo import pairs
from trimtab.train.prepare import Prepared
from trimtab.train.stream.fused import answer_fast
from trimtab.train.stream.stream import IGNORED
from trimtab.train.stream.walk import bare
from trimtab.train.trainer import SealedTrainer, arguments, tokenizer_of
from trimtab.train.watch.watch import Watch


class SealedORPO(SealedTrainer, ORPOTrainer):
    """ORPO over pairs that are tokens already."""

    def tokenize_row(self, feature: dict[str, Any], model: Any = None) -> dict[str, Any]:
        return feature

    def concatenated_forward(self, model: Any, batch: dict[str, Any]) -> tuple[Any, ...]:
        """Mean log-probabilities of chosen and rejected answers, mean logits of their tokens, and
        the chosen half's loss over prompt and answer: TRL's quantities, by its own fused head.
        """
        joined = self.concatenated_inputs(
            batch, padding_value=self.padding_value, device=self.accelerator.device
        )
        tokens, answers = joined["concatenated_input_ids"], joined["concatenated_labels"]
        seen = joined["concatenated_attention_mask"]
        half, width = len(batch["chosen_labels"]), tokens.shape[1] - 1
        labels = answers.clone()
        labels[:half] = tokens[:half].masked_fill(seen[:half] == 0, IGNORED)
        found = model(input_ids=tokens, attention_mask=seen, labels=labels, fused_lm_head=True)
        # What is learnt before the prompt comes back before the columns that were asked for.
        logprobs, logits = found.log_probs[:, -width:], found.mean_logits[:, -width:]
        loss = -logprobs[:half].sum() / self.counted((labels[:half, 1:] != IGNORED).sum())
        counted = answers[:, 1:] != IGNORED
        means = (logprobs * counted).sum(dim=1) / counted.sum(dim=1)
        asked = [part[kept] for part, kept in zip(logits, counted, strict=True)]
        chosen, rejected = torch.cat(asked[:half]), torch.cat(asked[half:])
        return means[:half], means[half:], chosen, rejected, loss


def build(prepared: Prepared, checkpoints: Path, watch: Watch) -> SealedTrainer:
    """A trainer over the pairs in their final order."""
    add_fused_lm_head(bare(prepared.attached.model), outputs=("log_probs", "mean_logits"))
    answer_fast(prepared.attached.model)
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
