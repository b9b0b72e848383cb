"""How token sequences of unequal length lie in one rectangle.

What all rows share goes before, computed once; the rest is padded on the left, so that every row
ends in the last column:

    shared prefix | padding | the row's own tokens
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

MAX_BATCH = 16
"""Rows."""
MAX_BATCH_TOKENS = 8192
"""Rows times the longest of them, the answer to come included."""

# Below this many tokens saved, a forward pass of its own costs more than the prefix is worth.
WORTH_SHARING = 64


@dataclass(frozen=True, slots=True)
class Layout:
    """`ids` and `positions` are (rows, width); `mask` is (rows, prefix + width), 0 for padding."""

    prefix: tuple[int, ...]
    ids: torch.Tensor
    mask: torch.Tensor
    positions: torch.Tensor


def lay_out(
    rows: Sequence[Sequence[int]], shareable: int, device: torch.device, padding: int = 0
) -> Layout:
    """Lay rows side by side. At most `shareable` leading tokens are taken out as the prefix; it
    must be less than the length of the shortest row, for each row needs a token of its own.
    """
    shared = common_prefix(rows, shareable)
    if shared * (len(rows) - 1) < WORTH_SHARING:
        shared = 0
    width = max(len(row) for row in rows) - shared
    gaps = [width - (len(row) - shared) for row in rows]
    own = [[padding] * gap + list(row[shared:]) for gap, row in zip(gaps, rows, strict=True)]
    gap = torch.tensor(gaps, device=device).unsqueeze(1)
    column = torch.arange(width, device=device)
    mask = torch.ones(len(rows), shared + width, dtype=torch.long, device=device)
    mask[:, shared:] = column >= gap
    positions = (shared + column - gap).clamp(min=0)
    return Layout(tuple(rows[0][:shared]), torch.tensor(own, device=device), mask, positions)


def common_prefix(rows: Sequence[Sequence[int]], limit: int) -> int:
    """The number of leading tokens, at most `limit`, that all rows have in common."""
    for place in range(limit):
        if any(row[place] != rows[0][place] for row in rows):
            return place
    return limit
