"""Attention over a stream by torch's flash kernels: one launch, every branch at its own length.

A branch sees whole spans of the stream and, causally, itself; its keys are those, one after the
other. Where no branch has a past, that is the stream as it lies and nothing is gathered. The
kernels align causality to the last key (Dao 2023, version 2.1), which is what a branch needs.
Imports torch.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from trimtab.train.stream.cuda.fusion import fuses
from trimtab.train.stream.stream import Block, Span
from trimtab.train.stream.upload import upload

WIDTHS = (torch.bfloat16, torch.float16)
# Of a head; what the kernels are built for.
LARGEST, MULTIPLE = 256, 8


def flashes(x: Tensor, size: int) -> bool:
    """Whether the kernels know this width and a head of `size`."""
    return x.is_cuda and x.dtype in WIDTHS and size <= LARGEST and size % MULTIPLE == 0


@dataclass(frozen=True, slots=True)
class Lengths:
    """Where each branch's queries and keys begin, int32 [branches + 1]; the longest of both; and
    where the keys lie in the stream, None where they are all of it in its order.
    """

    queries: Tensor
    keys: Tensor
    longest_queries: int
    longest_keys: int
    places: Tensor | None

    @classmethod
    def of(cls, blocks: Sequence[Block], tokens: int, device: torch.device) -> "Lengths":
        """Of blocks that hold whole branches of a stream of so many tokens."""
        starts, ends = [0], [0]
        places: list[Span] = []
        longest_queries = longest_keys = 0
        for block in blocks:
            asked = block.last - block.first
            spans = (*block.past, block.own)
            seen = sum(last - first for first, last in spans)
            starts.append(starts[-1] + asked)
            ends.append(ends[-1] + seen)
            longest_queries = max(longest_queries, asked)
            longest_keys = max(longest_keys, seen)
            places += spans
        whole = _covers(places, tokens)
        gathered = None if whole else torch.cat([torch.arange(*span) for span in places])
        return cls(
            upload(starts, device, torch.int32),
            upload(ends, device, torch.int32),
            longest_queries,
            longest_keys,
            None if gathered is None else upload(gathered, device),
        )


def _covers(spans: Sequence[Span], tokens: int) -> bool:
    """Whether spans make up the stream in its order."""
    reached = 0
    for first, last in spans:
        if first != reached:
            return False
        reached = last
    return reached == tokens


def attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    turn_q: tuple[Tensor, Tensor],
    turn_k: tuple[Tensor, Tensor],
    lengths: Lengths,
    size: int,
) -> Tensor:
    """What `BranchAttention` computes of the same: [queries, heads * D]."""
    q = _turned(query.view(len(query), -1, size), turn_q)
    k = _turned(key.view(len(key), -1, size), turn_k)
    v = value.view(len(value), -1, size)
    if lengths.places is not None:
        k, v = k.index_select(0, lengths.places), v.index_select(0, lengths.places)
    found: Tensor = torch.ops.aten._flash_attention_forward(
        q,
        k,
        v,
        lengths.queries,
        lengths.keys,
        lengths.longest_queries,
        lengths.longest_keys,
        0.0,
        True,
        False,
        scale=size**-0.5,
    )[0]
    return found.flatten(1)


def _turned(x: Tensor, turn: tuple[Tensor, Tensor]) -> Tensor:
    found: Tensor = Turned.apply(x, *turn)  # type: ignore[no-untyped-call]
    return found


class Turned(torch.autograd.Function):
    """Rotary positions (Su et al. 2021): `x` [rows, heads, D], cosines and sines [rows, D / 2]."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        ctx.save_for_backward(cos, sin)
        return _rotate(x, cos, sin, back=False)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        # A rotation's transpose is the rotation back.
        return _rotate(grads[0].contiguous(), *ctx.saved_tensors, back=True), None, None


def _rotate(x: Tensor, cos: Tensor, sin: Tensor, *, back: bool) -> Tensor:
    if fuses(x):
        from trimtab.train.stream.cuda.triton_kernels import rotated

        return rotated(x, cos, sin, back=back)
    one, two = x.chunk(2, dim=-1)
    c, s = cos[:, None], (-sin if back else sin)[:, None]
    return torch.cat([one * c - two * s, two * c + one * s], dim=-1)
