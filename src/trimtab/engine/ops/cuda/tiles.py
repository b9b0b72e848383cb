"""How a step's tokens are shared out to programs of the GPU; made once a step, for all layers."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

ROWS = (16, 64)
"""Of a tile: what the matrix units take at least, and what a prompt makes good use of."""


@dataclass(frozen=True, slots=True)
class Tiles:
    """`places` is (tiles, fields), int32 or int64; a tile has at most `rows` rows."""

    places: torch.Tensor
    rows: int

    def on(self, device: torch.device) -> "Tiles":
        return Tiles(self.places.to(device), self.rows)


Tile = tuple[int, int, int, int]
Span = tuple[int, int]


def rows_for(most: int, group: int = 1) -> int:
    """The rows of a tile where the longest span has `most` tokens and each fills `group` rows."""
    few, many = ROWS
    return few if most * group <= few else max(many, 1 << (group - 1).bit_length())


def attention(spans: Sequence[Span], counts: Sequence[int], group: int, rows: int) -> list[Tile]:
    """For each tile its first row of the step, how many tokens it has, its sequence, and the
    position of its first token. `counts` are what the sequences remember with this step's tokens.
    """
    width = rows // group
    return [
        (start, min(width, end - start), sequence, counts[sequence] - (end - start))
        for sequence, (begin, end) in enumerate(spans)
        for start in range(begin, end, width)
    ]


def patches(adapted: Sequence[tuple[int, int, int]], rows: int) -> list[tuple[int, int, int]]:
    """For each tile of adapted tokens its first row, how many it has, and where its adapter's table
    lies, which is the third of each of `adapted`.
    """
    return [
        (start, min(rows, end - start), table)
        for begin, end, table in adapted
        for start in range(begin, end, rows)
    ]
