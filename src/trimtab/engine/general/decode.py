"""A static batch on its way through a model: logits now, and the cache that makes them cheap.

Knows nothing of requests, sampling or text.
"""

import functools
import inspect
from collections.abc import Callable, Sequence
from typing import Any

import torch
from transformers import DynamicCache, PreTrainedModel

from trimtab.engine.general.layout import Layout, lay_out
from trimtab.engine.general.overlay import Lead, Overlay
from trimtab.engine.general.roomy import new_cache, slides
from trimtab.engine.sampling.sampler import not_finite


class Decoder:
    """Rows that grow by one token a step. Call it under `torch.inference_mode`.

    `logits` is (rows, vocabulary): what each row's next token is drawn from. `cached` is the
    number of leading tokens that were computed once for all rows.
    """

    def __init__(self, overlay: Overlay, prompts: Sequence[Sequence[int]]) -> None:
        self._model = overlay.model
        self._cache = new_cache(overlay.model.config)
        shareable = _shareable(self._cache, prompts)
        layout = lay_out(prompts, shareable, overlay.model.device)
        self.cached = len(layout.prefix)
        self.logits = forward(overlay, layout, self._cache, keep=1)[:, -1]
        self._mask = led(layout.mask, overlay.lead)
        self._next = layout.positions[:, -1:] + 1 + self._mask.shape[1] - layout.mask.shape[1]

    def step(self, tokens: Sequence[int]) -> None:
        """Append one token to each row, in the order of the rows."""
        ids = torch.tensor(tokens, device=self._mask.device).unsqueeze(1)
        self._mask = torch.cat([self._mask, torch.ones_like(ids)], dim=1)
        self.logits = _compute(self._model, ids, self._mask, self._next, self._cache, keep=1)[:, -1]
        self._next = self._next + 1

    def keep(self, rows: Sequence[int]) -> None:
        """Go on with these rows alone."""
        chosen = torch.tensor(rows, device=self._mask.device)
        self._cache.batch_select_indices(chosen)
        self._mask, self._next = self._mask[chosen], self._next[chosen]
        self.logits = self.logits[chosen]


def score_rows(
    overlay: Overlay, rows: Sequence[tuple[Sequence[int], Sequence[int]]]
) -> list[tuple[float, ...]]:
    """The natural log-probability of every token of each row's completion after its prompt."""
    # The last token predicts nothing that is asked for, the last of the prompt does.
    inputs = [[*prompt, *completion[:-1]] for prompt, completion in rows]
    cache = new_cache(overlay.model.config)
    shareable = _shareable(cache, [prompt for prompt, _ in rows])
    layout = lay_out(inputs, shareable, overlay.model.device)
    longest = max(len(completion) for _, completion in rows)
    logits = forward(overlay, layout, cache, keep=longest).float()
    normaliser = logits.logsumexp(dim=-1)
    if not torch.isfinite(normaliser).all():
        raise not_finite()
    scores = []
    for row, (_, completion) in enumerate(rows):
        own = slice(longest - len(completion), None)
        wanted = torch.tensor(completion, device=logits.device).unsqueeze(1)
        chosen = logits[row, own].gather(1, wanted).squeeze(1)
        scores.append(tuple((chosen - normaliser[row, own]).tolist()))
    return scores


def _shareable(cache: DynamicCache, prompts: Sequence[Sequence[int]]) -> int:
    """How many leading tokens may be computed once. Padding lies between them and a row's own
    tokens, and a window that slides over the columns would count it.
    """
    return 0 if slides(cache) else min(len(prompt) for prompt in prompts) - 1


def forward(overlay: Overlay, layout: Layout, cache: DynamicCache, keep: int) -> torch.Tensor:
    """Logits (rows, keep, vocabulary) of the last `keep` columns; fills the empty `cache`.

    What all rows share, an adapter's virtual tokens first, is computed once.
    """
    lead = 0
    if overlay.lead is not None:
        overlay.lead.fill(cache)
        lead = overlay.lead.length
    if layout.prefix:
        prefix = torch.tensor([layout.prefix], device=layout.ids.device)
        places = lead + torch.arange(len(layout.prefix), device=prefix.device).unsqueeze(0)
        mask = prefix.new_ones(1, lead + len(layout.prefix))
        _compute(overlay.model, prefix, mask, places, cache, keep=1)
    if lead or layout.prefix:
        cache.batch_repeat_interleave(len(layout.ids))
    mask, places = led(layout.mask, overlay.lead), lead + layout.positions
    return _compute(overlay.model, layout.ids, mask, places, cache, keep)


def led(mask: torch.Tensor, lead: Lead | None) -> torch.Tensor:
    """A mask, (rows, columns), with the places of an adapter's virtual tokens before it."""
    if lead is None:
        return mask
    return torch.cat([mask.new_ones(len(mask), lead.length), mask], dim=1)


def _compute(
    model: PreTrainedModel,
    ids: torch.Tensor,
    mask: torch.Tensor,
    places: torch.Tensor,
    cache: DynamicCache,
    keep: int,
) -> torch.Tensor:
    """Logits (rows, keep, vocabulary). Architectures differ in what they want to be told."""
    known = _parameters(type(model).forward)
    told: dict[str, Any] = {}
    if "position_ids" in known:
        told["position_ids"] = places
    if "logits_to_keep" in known:
        told["logits_to_keep"] = keep
    output: Any = model(
        input_ids=ids, attention_mask=mask, past_key_values=cache, use_cache=True, **told
    )
    logits: torch.Tensor = output.logits
    return logits[:, -keep:]


@functools.cache
def _parameters(forward: Callable[..., Any]) -> frozenset[str]:
    return frozenset(inspect.signature(forward).parameters)
