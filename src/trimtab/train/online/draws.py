"""Chance, dealt to each answer by its place: whoever computes an answer, and beside whichever
others, it goes on with the same tokens. So a run in several ranks samples what one process would.

Imports torch and transformers.
"""

import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig, GenerationMixin, LogitsProcessor, LogitsProcessorList

from trimtab.train.stream.walk import Model


def draws(seed: int, batch: int, places: Sequence[int]) -> list[random.Random]:
    """The chance of each answer of a run's batch of answers, where it stands in the whole batch."""
    return [random.Random(f"{seed}/{batch}/{place}") for place in places]


class Drawn(LogitsProcessor):
    """Leaves of each row's tokens the one that the row draws, by the inverse of its distribution
    function (Devroye 1986, III.2).
    """

    def __init__(self, rows: Sequence[random.Random]) -> None:
        self._rows = rows

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """`scores` [rows, vocabulary], behind all that bends them (temperature and the like)."""
        # In float64, for a sum over a large vocabulary in float32 moves the bounds between tokens.
        upto = scores.double().softmax(dim=-1).cumsum(dim=-1)
        chance = upto.new_tensor([[row.random()] for row in self._rows])
        found = torch.searchsorted(upto, chance * upto[:, -1:], right=True)
        found = found.clamp(max=scores.shape[1] - 1)
        return torch.full_like(scores, -torch.inf).scatter(1, found, 0.0)


@contextmanager
def dealt(model: Model, rows: Sequence[random.Random]) -> Iterator[None]:
    """Within, what `model.generate` samples is drawn by each row's own chance."""

    def by_row(
        causal: Any,
        input_ids: Any,
        logits_processor: LogitsProcessorList,
        generation_config: GenerationConfig,
        **rest: Any,
    ) -> Any:
        logits_processor.append(Drawn(rows))
        # One token is left of each row, so nothing is left to chance.
        generation_config.do_sample = False
        return GenerationMixin._sample(
            causal,
            input_ids,
            logits_processor=logits_processor,
            generation_config=generation_config,
            **rest,
        )

    theirs: Any = model.generate

    def generate(**named: Any) -> Any:
        return theirs(**named, custom_generate=by_row)

    # On the one model, and found before the method of its class.
    model.__dict__["generate"] = generate
    try:
        yield
    finally:
        del model.__dict__["generate"]
