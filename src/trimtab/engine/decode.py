"""A static batch on its way through a model: logits now, and the cache that makes them cheap.

Knows nothing of requests, sampling or text.
"""

from collections.abc import Sequence
from typing import Any

import torch
from transformers import DynamicCache, PreTrainedModel

from trimtab.engine.layout import Layout, lay_out
from trimtab.engine.roomy import new_cache
from trimtab.engine.sampling import not_finite


class Decoder:
    """Rows that grow by one token a step. Call it under `torch.inference_mode`.

    `logits` is (rows, vocabulary): what each row's next token is drawn from. `cached` is the
    number of leading tokens that were computed once for all rows.
    """

    def __init__(self, model: PreTrainedModel, prompts: Sequence[Sequence[int]]) -> None:
        shareable = min(len(prompt) for prompt in prompts) - 1
        layout = lay_out(prompts, shareable, model.device)
        self._model = model
        self._mask = layout.mask
        self._next = layout.positions[:, -1:] + 1
        self._cache = new_cache(model.config)
        self.cached = len(layout.prefix)
        self.logits = forward(model, layout, self._cache, keep=1)[:, -1]

    def step(self, tokens: Sequence[int]) -> None:
        """Append one token to each row, in the order of the rows."""
        ids = torch.tensor(tokens, device=self._mask.device).unsqueeze(1)
        self._mask = torch.cat([self._mask, torch.ones_like(ids)], dim=1)
        output: Any = self._model(
            input_ids=ids,
            attention_mask=self._mask,
            position_ids=self._next,
            past_key_values=self._cache,
            logits_to_keep=1,
        )
        self._next = self._next + 1
        self.logits = output.logits[:, -1]

    def keep(self, rows: Sequence[int]) -> None:
        """Go on with these rows alone."""
        chosen = torch.tensor(rows, device=self._mask.device)
        self._cache.batch_select_indices(chosen)
        self._mask, self._next = self._mask[chosen], self._next[chosen]
        self.logits = self.logits[chosen]


def score_rows(
    model: PreTrainedModel, rows: Sequence[tuple[Sequence[int], Sequence[int]]]
) -> list[tuple[float, ...]]:
    """The natural log-probability of every token of each row's completion after its prompt."""
    # The last token predicts nothing that is asked for, the last of the prompt does.
    inputs = [[*prompt, *completion[:-1]] for prompt, completion in rows]
    shareable = min(len(prompt) for prompt, _ in rows) - 1
    layout = lay_out(inputs, shareable, model.device)
    longest = max(len(completion) for _, completion in rows)
    logits = forward(model, layout, new_cache(model.config), keep=longest).float()
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


def forward(model: PreTrainedModel, layout: Layout, cache: DynamicCache, keep: int) -> torch.Tensor:
    """Logits (rows, keep, vocabulary) of the last `keep` columns; fills the empty `cache`."""
    if layout.prefix:
        prefix = torch.tensor([layout.prefix], device=layout.ids.device)
        model(input_ids=prefix, past_key_values=cache, logits_to_keep=1)
        cache.batch_repeat_interleave(len(layout.ids))
    output: Any = model(
        input_ids=layout.ids,
        attention_mask=layout.mask,
        position_ids=layout.positions,
        past_key_values=cache,
        logits_to_keep=keep,
    )
    return output.logits  # type: ignore[no-any-return]
