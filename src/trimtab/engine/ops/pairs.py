"""An adapter's pairs as the kernels read them: in panels, like the weights that they stand beside.

A step of few tokens takes the time that its bytes take to arrive, so the numbers lie in 16 bits:
fixed point, the largest of a row of the rank at 32767. That changed no log-probability of a token
that followed by more than 0.00006 (three adapters of rank 16 on SmolLM2-135M), where float16 did by
0.0002. A pair with a row that would lose more than EXACT of itself on average, for a few of its
numbers are far larger than all others, stays float32.
"""

import struct
from collections.abc import Callable

import torch

from trimtab.engine.pages import Pages
from trimtab.engine.pair import AnyPair, Pair, Told

PROJECTIONS = 3
"""Fused into one matrix at most."""
LARGEST = 2**15 - 1
EXACT = 2**-13

# `Pair` of kernels/adapt.h
STRUCTURE = struct.Struct(f"={3 + PROJECTIONS}Q{4 * PROJECTIONS + 3}q")
ABSENT = bytes(STRUCTURE.size)

Panels = Callable[[torch.Tensor, Pages], torch.Tensor]
"""Puts rows (outputs, inputs), of float32 or of 16 bits, into panels (panels, inputs, PANEL)."""


def told(pair: Pair, dtype: torch.dtype, panels: Panels, pages: Pages) -> Told:
    """`pair` is float32; computed with `dtype`."""
    halves = [pair.down, *(up.weight for up in pair.ups)]
    rounded = [_rounded(rows) for rows in halves]
    factors = torch.ones(len(pair.down))
    narrow = all(each is not None for each in rounded)
    if narrow:
        halves = [numbers for numbers, _ in filter(None, rounded)]
        down, *ups = [scales for _, scales in filter(None, rounded)]
        factors *= down
        for up, scales in zip(pair.ups, ups, strict=True):
            factors[up.rows] *= scales
    tensors = [panels(halves[0], pages), *(panels(half.T, pages) for half in halves[1:])]
    tensors.append(pages.copy(factors))
    if pair.lengthen is not None:
        tensors.append(pages.copy(pair.lengthen.to(dtype)))
    return Told(_structure(pair, narrow, tensors), tuple(tensors))


def structure(pair: AnyPair) -> bytes:
    assert isinstance(pair, Told)
    return pair.structure


def _rounded(rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor] | None:
    """Rows of the rank in 16 bits, 32768 more than they say, and what they are multiplied by; None
    where a row would lose too much.
    """
    scales = rows.abs().amax(dim=1).clamp(min=1e-20) / LARGEST
    numbers = (rows / scales.unsqueeze(1)).round_()
    lost = (numbers * scales.unsqueeze(1) - rows).abs().sum(dim=1)
    if (lost > EXACT * rows.abs().sum(dim=1)).any():
        return None
    return (numbers + (LARGEST + 1)).to(torch.int32).to(torch.int16), scales


def _structure(pair: Pair, narrow: bool, tensors: list[torch.Tensor]) -> bytes:
    places = [tensor.data_ptr() for tensor in tensors]
    last = 1 + len(pair.ups)
    return STRUCTURE.pack(
        places[0],
        places[last + 1] if pair.lengthen is not None else 0,
        places[last],
        *_each(places[1:last]),
        *_each([up.row for up in pair.ups]),
        *_each([up.weight.shape[0] for up in pair.ups]),
        *_each([up.column for up in pair.ups]),
        *_each([up.weight.shape[1] for up in pair.ups]),
        len(pair.down),
        len(pair.ups),
        narrow,
    )


def _each(values: list[int]) -> list[int]:
    return values + [0] * (PROJECTIONS - len(values))
