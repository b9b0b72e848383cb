"""What several adapters add beside a projection, each to tokens of its own, in two launches.

The first multiplies by the halves that narrow, a share of the inputs a program, and leaves each
share's sums apart, so that none depends on who was first; the second adds the shares up and
multiplies by the halves that widen. Which tokens are whose, tiles say; where an adapter's tensors
lie, its table. So what an adapter costs does not depend on how many others there are (as S-LoRA's
and Punica's kernels, 2023).
"""

from itertools import pairwise

import torch
import triton
import triton.language as tl

from trimtab.engine.llama.lora import Adapter
from trimtab.engine.llama.pair import Pair
from trimtab.engine.llama.weights import PARTS
from trimtab.engine.ops.cuda.tiles import Tiles

PROJECTIONS = 3
"""Fused into one matrix at most."""
FIELDS = 3 + 3 * PROJECTIONS
"""Of a place in a table: where `down` and `lengthen` lie and how many rows the first has; then of
each projection where its `up` lies, the first of its rows of `down`, and how many.
"""
GROUPS = tuple(PARTS)
LEAST_SHARE, SHARES = 256, 16
"""Inputs that a program adds up at least, and shares of them at most."""
RANKS = 4
"""Programs that share the rows of `down`."""
INPUTS, RANK, OUTPUTS = 128, 16, 128


def table(adapter: Adapter, layers: int, bounds: dict[str, tuple[int, ...]]) -> torch.Tensor:
    """(layers * groups * FIELDS,), int64, on the CPU; nought where an adapter has nothing.
    `bounds` are the columns at which the projections of a group begin.
    """
    made = torch.zeros(layers, len(GROUPS), FIELDS, dtype=torch.int64)
    for (layer, group), pair in adapter.pairs.items():
        assert isinstance(pair, Pair)
        place = made[layer, GROUPS.index(group)]
        lengthen = 0 if pair.lengthen is None else pair.lengthen.data_ptr()
        place[:3] = torch.tensor([pair.down.data_ptr(), lengthen, len(pair.down)])
        for up in pair.ups:
            at = 3 + bounds[group].index(up.column)
            place[at] = up.weight.data_ptr()
            place[at + PROJECTIONS] = up.row
            place[at + 2 * PROJECTIONS] = len(up.weight)
    return made.flatten()


# What differs from call to call is compiled once, and not for each kind of number that it may be.
@triton.jit(do_not_specialize=["place", "tokens"])
def _narrow(
    x: tl.tensor,
    sums: tl.tensor,
    tiles: tl.tensor,
    place: tl.tensor,
    tokens: tl.tensor,
    inputs: tl.tensor,
    share: tl.tensor,
    capacity: tl.tensor,
    rows: tl.constexpr,
    columns: tl.constexpr,
    ranks: tl.constexpr,
) -> None:
    tile = tiles + 3 * tl.program_id(0)
    row, count, where = tl.load(tile), tl.load(tile + 1), tl.load(tile + 2)
    if count == 0:
        return
    entry = where.to(tl.pointer_type(tl.int64)) + place
    down = tl.load(entry).to(tl.pointer_type(x.dtype.element_ty))
    total = tl.load(entry + 2)
    m = tl.arange(0, rows)
    k = tl.arange(0, columns)
    r = tl.arange(0, ranks)
    live = (m < count)[:, None]
    begin = tl.program_id(1) * share
    end = tl.minimum(begin + share, inputs)
    into = sums + (tl.program_id(1) * tokens + row) * capacity
    at = (row + m)[:, None] * inputs
    for first in range(tl.program_id(2) * ranks, total, tl.num_programs(2) * ranks):
        made = tl.zeros([rows, ranks], tl.float32)
        known = (first + r)[None, :] < total
        for start in range(begin, end, columns):
            inside = start + k < end
            some = tl.load(x + at + (start + k)[None, :], mask=live & inside[None, :], other=0.0)
            lies = (first + r)[None, :] * inputs + (start + k)[:, None]
            weight = tl.load(down + lies, mask=known & inside[:, None], other=0.0)
            made += tl.dot(some, weight, input_precision="ieee")
        told = into + m[:, None] * capacity + (first + r)[None, :]
        tl.store(told, made, mask=live & known)


@triton.jit(do_not_specialize=["place", "tokens", "shares"])
def _widen(
    y: tl.tensor,
    sums: tl.tensor,
    tiles: tl.tensor,
    place: tl.tensor,
    tokens: tl.tensor,
    shares: tl.tensor,
    capacity: tl.tensor,
    second: tl.tensor,
    third: tl.tensor,
    outputs: tl.tensor,
    rows: tl.constexpr,
    columns: tl.constexpr,
    ranks: tl.constexpr,
    projections: tl.constexpr,
) -> None:
    tile = tiles + 3 * tl.program_id(0)
    row, count, where = tl.load(tile), tl.load(tile + 1), tl.load(tile + 2)
    if count == 0:
        return
    # Each projection has columns, and blocks of them, of its own.
    number = tl.program_id(1)
    blocks = tl.cdiv(second, columns)
    more = blocks + tl.cdiv(third - second, columns)
    which = (number >= blocks).to(tl.int32) + (number >= more).to(tl.int32)
    base = tl.where(which == 0, 0, tl.where(which == 1, second, third))
    end = tl.where(which == 0, second, tl.where(which == 1, third, outputs))
    begin = base + (number - tl.where(which == 0, 0, tl.where(which == 1, blocks, more))) * columns
    entry = where.to(tl.pointer_type(tl.int64)) + place
    up = tl.load(entry + 3 + which)
    if up == 0:
        return
    lengthen = tl.load(entry + 1)
    start = tl.load(entry + 3 + projections + which)
    rank = tl.load(entry + 3 + 2 * projections + which)
    stored = y.dtype.element_ty
    weights = up.to(tl.pointer_type(stored))
    m = tl.arange(0, rows)
    n = begin + tl.arange(0, columns)
    r = tl.arange(0, ranks)
    live = (m < count)[:, None]
    inside = (n < end)[None, :]
    made = tl.zeros([rows, columns], tl.float32)
    for first in range(0, rank, ranks):
        known = first + r < rank
        between = tl.zeros([rows, ranks], tl.float32)
        for part in range(shares):
            lies = (part * tokens + row + m)[:, None] * capacity + (start + first + r)[None, :]
            between += tl.load(sums + lies, mask=live & known[None, :], other=0.0)
        wide = weights + (first + r)[:, None] * (end - base) + (n - base)[None, :]
        weight = tl.load(wide, mask=known[:, None] & inside, other=0.0)
        made += tl.dot(between.to(stored), weight, input_precision="ieee")
    at = y + (row + m)[:, None] * outputs + n[None, :]
    made += tl.load(at, mask=live & inside, other=0.0).to(tl.float32)
    if lengthen != 0:
        factors = lengthen.to(tl.pointer_type(stored))
        made *= tl.load(factors + n, mask=n < end, other=1.0).to(tl.float32)[None, :]
    tl.store(at, made.to(stored), mask=live & inside)


def adapt(
    y: torch.Tensor, x: torch.Tensor, tiles: Tiles, place: int, bounds: tuple[int, ...], rank: int
) -> None:
    """Add to `y` (tokens, outputs), in place, what the adapters of `tiles` make of `x` (tokens,
    inputs) at a `place` of their tables, which is layer * groups + group. `bounds` are the columns
    at which its projections begin, `rank` is the most rows that a `down` has.
    """
    tokens, inputs = x.shape
    outputs = y.shape[1]
    share = max(LEAST_SHARE, triton.cdiv(inputs, SHARES * INPUTS) * INPUTS)
    shares = triton.cdiv(inputs, share)
    sums = torch.empty(shares, tokens, rank, dtype=torch.float32, device=x.device)
    _narrow[(len(tiles.places), shares, RANKS)](
        x,
        sums,
        tiles.places,
        place * FIELDS,
        tokens,
        inputs,
        share,
        rank,
        rows=tiles.rows,
        columns=INPUTS,
        ranks=RANK,
        num_warps=4,
    )
    _, second, third = (*bounds, outputs, outputs)[:PROJECTIONS]
    edges = (0, second, third, outputs)
    blocks = sum(triton.cdiv(end - begin, OUTPUTS) for begin, end in pairwise(edges))
    _widen[(len(tiles.places), blocks)](
        y,
        sums,
        tiles.places,
        place * FIELDS,
        tokens,
        shares,
        rank,
        second,
        third,
        outputs,
        rows=tiles.rows,
        columns=OUTPUTS,
        ranks=RANK,
        projections=PROJECTIONS,
        num_warps=4,
    )
