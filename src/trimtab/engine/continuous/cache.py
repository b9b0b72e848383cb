"""Keys and values of every token that is remembered, in blocks. Which is whose, `blocks` knows."""

import torch

from trimtab.engine.continuous.blocks import BLOCK
from trimtab.engine.llama.family import Shape
from trimtab.engine.llama.pages import Pages


class Cache:
    """Room for `blocks` blocks of BLOCK tokens in every layer.

    A block's keys lie with the tokens innermost, so that one register of a CPU holds the same
    number of many keys; its values lie with the numbers of a head innermost. On a GPU both do,
    and `keys` is seen as if its tokens were innermost.
    """

    def __init__(self, shape: Shape, blocks: int, dtype: torch.dtype, device: torch.device) -> None:
        self.shape = shape
        keys = (shape.layers, blocks, shape.kv_heads, shape.head_dim, BLOCK)
        values = (shape.layers, blocks, shape.kv_heads, BLOCK, shape.head_dim)
        # What was never written takes no memory yet.
        if device.type == "cpu":
            pages = Pages()
            self.keys, self.values = pages.empty(keys, dtype), pages.empty(values, dtype)
        else:
            self.keys = torch.empty(values, dtype=dtype, device=device).transpose(3, 4)
            self.values = torch.empty(values, dtype=dtype, device=device)

    def store(
        self, layer: int, places: torch.Tensor, keys: torch.Tensor, values: torch.Tensor
    ) -> None:
        """Put keys and values, each (tokens, kv_heads, head_dim), into their places."""
        block, at = places // BLOCK, places % BLOCK
        self.keys[layer].permute(0, 3, 1, 2)[block, at] = keys
        self.values[layer].permute(0, 2, 1, 3)[block, at] = values

    def copy(self, source: int, target: int, count: int) -> None:
        """The first `count` tokens of a block into another, in every layer."""
        self.keys[:, target, :, :, :count] = self.keys[:, source, :, :, :count]
        self.values[:, target, :, :count] = self.values[:, source, :, :count]

    def gather(
        self, layer: int, tables: torch.Tensor, length: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The first `length` keys and values of sequences by their tables (sequences, blocks);
        each is (sequences, kv_heads, length, head_dim).
        """
        keys = self.keys[layer][tables].permute(0, 2, 1, 4, 3).flatten(2, 3)
        values = self.values[layer][tables].permute(0, 2, 1, 3, 4).flatten(2, 3)
        return keys[:, :, :length], values[:, :, :length]


def block_bytes(shape: Shape, dtype: torch.dtype) -> int:
    """Bytes of one block over all layers, keys and values."""
    return 2 * shape.layers * BLOCK * shape.kv_width * dtype.itemsize
