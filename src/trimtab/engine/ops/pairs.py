"""An adapter's pairs as the kernels read them: in panels, like the weights that they stand beside.

A step of few tokens takes the time that its bytes take to arrive, so numbers that bfloat16 holds,
as where the file is of it, stay in it. Nothing is rounded.
"""

import struct
from collections.abc import Callable, Sequence

import torch

from trimtab.engine.llama.pages import Pages
from trimtab.engine.llama.pair import AnyPair, Pair, Told

PROJECTIONS = 3
"""Fused into one matrix at most."""

# `Pair` of kernels/adapt.h
STRUCTURE = struct.Struct(f"={2 + PROJECTIONS}Q{4 * PROJECTIONS + 4}q")
ABSENT = bytes(STRUCTURE.size)

Panels = Callable[[torch.Tensor, Pages], torch.Tensor]
"""Puts rows (outputs, inputs) into panels (panels, inputs, PANEL) of the same dtype."""


def told(pair: Pair, dtype: torch.dtype, panels: Panels, pages: Pages) -> Told:
    """`pair` is float32; what it changes is of `dtype`."""
    narrow_down, [rows] = _narrowed([pair.down])
    down = panels(rows, pages)
    narrow_up, columns = _narrowed([up.weight.T for up in pair.ups])
    ups = [panels(each, pages) for each in columns]
    lengthen = [] if pair.lengthen is None else [pages.copy(pair.lengthen.to(dtype))]
    structure = STRUCTURE.pack(
        down.data_ptr(),
        lengthen[0].data_ptr() if lengthen else 0,
        *_each([up.data_ptr() for up in ups]),
        *_each([up.row for up in pair.ups]),
        *_each([up.weight.shape[0] for up in pair.ups]),
        *_each([up.column for up in pair.ups]),
        *_each([up.weight.shape[1] for up in pair.ups]),
        len(pair.down),
        len(pair.ups),
        narrow_down,
        narrow_up,
    )
    return Told(structure, (down, *ups, *lengthen))


def structure(pair: AnyPair) -> bytes:
    assert isinstance(pair, Told)
    return pair.structure


def _narrowed(tensors: Sequence[torch.Tensor]) -> tuple[bool, Sequence[torch.Tensor]]:
    """Whether all are the same in bfloat16, and then in it."""
    narrow = [tensor.to(torch.bfloat16) for tensor in tensors]
    if all(map(torch.equal, tensors, (each.float() for each in narrow))):
        return True, narrow
    return False, tensors


def _each(values: list[int]) -> list[int]:
    return values + [0] * (PROJECTIONS - len(values))
