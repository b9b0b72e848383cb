"""The fast path behind TRL's own losses: what `model(..., fused_lm_head=True)` computes.

TRL's trainers ask a model for log-probabilities of labels and a few measures beside them, and do
the mathematics of their objectives over those. Here the stream of `loss` answers, where it can.
Under a wrapper of several processes it answers too, for it stands in the model's own forward pass.
Imports torch and trl.
"""

from types import MethodType
from typing import Any

import torch
from torch import Tensor
from trl.trainer.utils import FusedCausalLMOutput

from trimtab.train.stream.loss import stream_measures
from trimtab.train.stream.stream import IGNORED, Stream, lay_out
from trimtab.train.stream.walk import Model, bare, drops, learns_prompt, walkable

# What a call may name: positions, embeddings and caches of their own are not for the stream.
KNOWN = frozenset({"input_ids", "attention_mask", "use_cache"})


def answer_fast(model: Model) -> None:
    """Let a model that TRL gave its fused head compute it by the stream from now on; one whose
    adapter puts something before the prompt never does.
    """
    if learns_prompt(model):
        return
    causal: Any = bare(model)
    theirs = causal.forward

    def forward(_: Any, *given: Any, **named: Any) -> Any:
        asked = named.get("fused_lm_head") and named.get("labels") is not None
        rest = {name for name, value in named.items() if value is not None}
        if given or not asked or rest - KNOWN - {"fused_lm_head", "labels"} or not walkable(model):
            return theirs(*given, **named)
        return _fused(model, named["input_ids"], named.get("attention_mask"), named["labels"])

    causal.forward = MethodType(forward, causal)


def as_stream(model: Model, tokens: Tensor, seen: Tensor, labels: Tensor) -> Stream:
    """The stream of a batch [rows, length], padded where `seen` is 0."""
    # All three at once: each row by itself would wait for the device.
    tokens, seen, labels = tokens.cpu(), seen.bool().cpu(), labels.cpu()
    rows = [row[kept].tolist() for row, kept in zip(tokens, seen, strict=True)]
    taught = [row[kept].tolist() for row, kept in zip(labels, seen, strict=True)]
    return lay_out(rows, taught, share=not drops(model))


def _fused(model: Model, tokens: Tensor, seen: Tensor | None, labels: Tensor) -> Any:
    """TRL's output for a batch [rows, length], padded on either side; its fields leave out the
    first column, as TRL's do.
    """
    if seen is None:
        seen = torch.ones_like(tokens)
    mask = labels[:, 1:] != IGNORED
    found = stream_measures(model, as_stream(model, tokens, seen, labels))
    logprobs, entropy, top1, mean = (
        part.new_zeros(mask.shape).masked_scatter(mask, part) for part in found
    )
    return FusedCausalLMOutput(
        loss=-logprobs.sum() / mask.sum().clamp(min=1),
        log_probs=logprobs,
        entropy=entropy,
        is_top1=top1,
        mean_logits=mean,
        label_mask=mask,
    )
