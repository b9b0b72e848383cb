"""Memory in large pages, for what is read at every step: weights, adapters, keys and values.

In pages of 4 KB a step of one token spends a quarter of its time on finding out where they lie.
Where a machine has no large ones, this is memory like any other.
"""

import math
import mmap
from collections.abc import Sequence
from contextlib import suppress

import torch

PIECE = 2**26
"""Bytes that are asked for at once: several tensors share a large page."""
LINE = 64


class Pages:
    """Memory goes back to the system when the last tensor in its piece is gone."""

    def __init__(self) -> None:
        self._piece: mmap.mmap | None = None
        self._used = 0

    def empty(self, size: Sequence[int], dtype: torch.dtype) -> torch.Tensor:
        """A tensor of zeros, on a CPU; what is never written takes no memory."""
        count = math.prod(size)
        if not count:
            return torch.empty(*size, dtype=dtype)
        needed = -(-count * dtype.itemsize // LINE) * LINE
        if self._piece is None or self._used + needed > len(self._piece):
            self._piece, self._used = _piece(max(needed, PIECE)), 0
        flat = torch.frombuffer(self._piece, dtype=dtype, count=count, offset=self._used)
        self._used += needed
        return flat.view(*size)

    def copy(self, tensor: torch.Tensor) -> torch.Tensor:
        """A contiguous copy; where it lies on another device, the tensor itself."""
        if tensor.device.type != "cpu":
            return tensor.contiguous()
        return self.empty(tensor.shape, tensor.dtype).copy_(tensor)


def _piece(size: int) -> mmap.mmap:
    piece = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        # A kernel that was built without them says so.
        with suppress(OSError):
            piece.madvise(mmap.MADV_HUGEPAGE)
    return piece
