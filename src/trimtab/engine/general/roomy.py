"""A key-value cache that grows in place.

The dynamic cache of transformers copies everything it holds to append one token, a fifth of a
step's time on a CPU. This one keeps free places behind what it holds.
"""

from typing import Any

import torch
from transformers import DynamicCache, PreTrainedConfig
from transformers.cache_utils import DynamicLayer

ROOM = 64
"""Free places, in tokens, that a buffer is made with."""


def new_cache(config: PreTrainedConfig) -> DynamicCache:
    """An empty cache. Layers that do not grow without bound stay as transformers has them."""
    cache = DynamicCache(config=config)
    cache.layers = [
        RoomyLayer() if type(layer) is DynamicLayer else layer for layer in cache.layers
    ]
    return cache


def slides(cache: DynamicCache) -> bool:
    """Whether a layer sees a window of the last columns alone."""
    return any(getattr(layer, "is_sliding", False) for layer in cache.layers)


class RoomyLayer(DynamicLayer):  # type: ignore[no-untyped-call]
    """`keys` and `values` are views, (rows, heads, tokens, width), of buffers with more places."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._key_buffer = Buffer()
        self._value_buffer = Buffer()

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        self.keys = self._key_buffer.append(self.keys, key_states)
        self.values = self._value_buffer.append(self.values, value_states)
        return self.keys, self.values


class Buffer:
    def __init__(self) -> None:
        self._places = torch.empty(0)
        self._view: torch.Tensor | None = None

    def append(self, held: torch.Tensor | None, new: torch.Tensor) -> torch.Tensor:
        """`held` with `new` behind it along the tokens.

        What this returned last is not copied; anything else, rows chosen from it for one, is.
        """
        length = 0 if held is None or not held.numel() else held.shape[-2]
        end = length + new.shape[-2]
        if held is not self._view or end > self._places.shape[-2]:
            self._places = new.new_empty(*new.shape[:-2], end + ROOM, new.shape[-1])
            if held is not None and length:
                self._places[..., :length, :] = held
        self._places[..., length:end, :] = new
        self._view = self._places[..., :end, :]
        return self._view
