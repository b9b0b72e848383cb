"""The fast path of a reward model: scores of whole dialogues by the stream, where it can be walked.

A score is read at the last token that is not padding, as transformers reads it. What a pair begins
with alike is computed once. Imports torch and transformers.
"""

from collections.abc import Sequence
from types import MethodType
from typing import Any

import torch
from torch import Tensor
from transformers.modeling_outputs import SequenceClassifierOutputWithPast

from trimtab.train.stream.stream import IGNORED, lay_out
from trimtab.train.stream.walk import Model, bare, drops, hidden_states, learns_prompt, walkable

# What a call may name: embeddings, positions, labels and caches are not for the stream.
KNOWN = frozenset({"input_ids", "attention_mask", "use_cache", "return_dict"})


def score_fast(model: Model) -> None:
    """Let a model with a scalar head compute its scores by the stream from now on; one whose
    adapter puts something before the prompt keeps the forward pass that PEFT looks into.
    """
    if learns_prompt(model):
        return
    scorer: Any = bare(model)
    theirs = scorer.forward

    def forward(_: Any, *given: Any, **named: Any) -> Any:
        rest = {name for name, value in named.items() if value is not None}
        if given or rest - KNOWN or "input_ids" not in rest or not walkable(model):
            return theirs(*given, **named)
        tokens = named["input_ids"]
        seen = named.get("attention_mask")
        kept = torch.ones_like(tokens).bool() if seen is None else seen.bool()
        rows = [row[held].tolist() for row, held in zip(tokens, kept, strict=True)]
        return SequenceClassifierOutputWithPast(logits=scores(model, rows))

    scorer.forward = MethodType(forward, scorer)


def scores(model: Model, rows: Sequence[Sequence[int]]) -> Tensor:
    """One score a row: [rows, 1]. Needs a walkable model."""
    scorer: Any = bare(model)
    padding = scorer.config.get_text_config().pad_token_id
    read = [list(row[: _end(row, padding)]) for row in rows]
    # The stream is told what it is to predict; here it is asked for the state that would.
    labels = [[IGNORED] * len(row) + [0] for row in read]
    stream = lay_out([[*row, 0] for row in read], labels, share=not drops(model))
    found: Tensor = scorer.score(hidden_states(model, stream))
    return found


def _end(row: Sequence[int], padding: int | None) -> int:
    """Where a row ends without padding; what is padding alone is kept as it is."""
    ends = [at + 1 for at, token in enumerate(row) if token != padding]
    return ends[-1] if ends else len(row)
