"""What one step computes: the next tokens of several sequences, side by side.

Sequences give as many tokens as they please: one that is being generated gives one, one whose
prompt is being read a chunk of it. Nothing is padded.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from trimtab.engine.continuous.blocks import BLOCK
from trimtab.engine.llama.lora import Adapter
from trimtab.engine.llama.pair import AnyPair
from trimtab.engine.llama.rope import rotations


@dataclass(frozen=True, slots=True)
class Part:
    """One sequence's share: `tokens` go behind the `held` ones that `blocks` hold already.

    The logits of the last `logits` tokens are wanted. `blocks` has room for `tokens`.
    """

    tokens: Sequence[int]
    held: int
    blocks: Sequence[int]
    logits: int
    adapter: Adapter | None


@dataclass(frozen=True, slots=True)
class Batch:
    """`tokens`, `positions` and `places` (where in the cache) are (tokens,). `spans` are the rows
    of each sequence, `tables` (sequences, blocks) its blocks, `lengths` (sequences,) what it
    remembers with this step's tokens, and `counts` the same without asking a device. `wanted` are
    the rows whose logits are, in their order.
    """

    tokens: torch.Tensor
    positions: torch.Tensor
    places: torch.Tensor
    rotations: tuple[torch.Tensor, torch.Tensor]
    spans: list[tuple[int, int]]
    starts: torch.Tensor
    tables: torch.Tensor
    lengths: torch.Tensor
    counts: list[int]
    wanted: torch.Tensor
    adapted: list[tuple[int, int, Adapter]]

    def segments(self, layer: int, group: str) -> list[tuple[int, int, AnyPair]]:
        """The rows that an adapter changes at one place, and its pair there."""
        return [
            (start, end, pair)
            for start, end, adapter in self.adapted
            if (pair := adapter.pairs.get((layer, group))) is not None
        ]


def lay_out(parts: Sequence[Part], radians: torch.Tensor, device: torch.device) -> Batch:
    tokens: list[int] = []
    positions: list[int] = []
    places: list[int] = []
    spans: list[tuple[int, int]] = []
    wanted: list[int] = []
    adapted: list[tuple[int, int, Adapter]] = []
    for part in parts:
        start, count = len(tokens), len(part.tokens)
        tokens += part.tokens
        own = range(part.held, part.held + count)
        positions += own
        places += [part.blocks[p // BLOCK] * BLOCK + p % BLOCK for p in own]
        end = start + count
        spans.append((start, end))
        wanted += range(end - part.logits, end)
        if part.adapter is not None:
            if adapted and adapted[-1][2] is part.adapter and adapted[-1][1] == start:
                adapted[-1] = (adapted[-1][0], end, part.adapter)
            else:
                adapted.append((start, end, part.adapter))
    width = max(len(part.blocks) for part in parts)
    tables = [
        block for part in parts for block in [*part.blocks, *[0] * (width - len(part.blocks))]
    ]
    counts = [part.held + len(part.tokens) for part in parts]
    there = _moved(device, tokens, positions, places, wanted, tables, counts)
    where = there[1]
    return Batch(
        tokens=there[0],
        positions=where,
        places=there[2],
        rotations=rotations(where, radians),
        spans=spans,
        starts=torch.tensor([start for start, _ in spans] + [len(tokens)], dtype=torch.int32),
        tables=there[4].view(len(parts), width).int(),
        lengths=there[5].int(),
        counts=counts,
        wanted=there[3],
        adapted=adapted,
    )


def _moved(device: torch.device, *rows: list[int]) -> Sequence[torch.Tensor]:
    """Each as int64 on the device, by one copy: to start one takes longer than it takes."""
    flat = torch.tensor([number for row in rows for number in row], dtype=torch.long)
    return torch.split(flat.to(device), [len(row) for row in rows])
