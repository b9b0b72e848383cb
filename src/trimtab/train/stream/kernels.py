"""The parts of a layer with gradients written by hand: fewer passes over memory, less kept.

A frozen weight gets no gradient, a low-rank pair is added into the product beside it, and what is
cheap to compute again is not kept: neither is a matrix that lies in 4 bits at its full width.
Products are in the width of their input, whatever width their weights are kept in. Imports torch,
and bitsandbytes where such a matrix is met.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as functional
from torch import Tensor

from trimtab.train.stream.cuda.fusion import fuses


@dataclass(frozen=True, slots=True)
class Pair:
    """What a low-rank pair adds: `scaling` * dropout(x) A' B', inputs dropped at rate `dropout`."""

    scaling: float
    dropout: float


class Projections(torch.autograd.Function):
    """Linear maps of one input, each with its pair where it has one (Hu et al. 2021).

    `x` is [rows, inputs]; `weights` are, map by map, W [outputs, inputs], maybe in 4 bits, bias
    [outputs] or None, A [rank, inputs] or None, B [outputs, rank] or None. Returns one
    [rows, outputs] a map.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, pairs: tuple[Pair, ...], *weights: Tensor | None
    ) -> tuple[Tensor, ...]:
        maps = _maps(weights, x.dtype)
        # A tensor that comes back from a checkpoint has lost them.
        packings = [getattr(weight, "quant_state", None) for weight in weights[::4]]
        masks, lows = _narrowed(x, pairs, maps)
        outputs = []
        for i, (pair, (weight, bias, _, b), low) in enumerate(zip(pairs, maps, lows, strict=True)):
            y = functional.linear(x, widened(weight, packings[i], x.dtype), bias)
            outputs.append(y if low is None else y.addmm_(low, b.t(), alpha=_factor(pair, x)))
        # What is frozen and has no pair asks for no input back.
        kept = x if any(ctx.needs_input_grad[2:]) else None
        ctx.save_for_backward(kept, *weights, *masks, *lows)
        ctx.pairs, ctx.packings = pairs, packings
        return tuple(outputs)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        x, *saved = ctx.saved_tensors
        pairs, count, needs = ctx.pairs, len(ctx.pairs), ctx.needs_input_grad
        width = grads[0].dtype
        maps = _maps(saved[: 4 * count], width)
        masks, lows = saved[4 * count : 5 * count], saved[5 * count :]
        dx: Tensor | None = None
        narrow: dict[int, Tensor] = {}
        found: list[Tensor | None] = [None] * (4 * count)
        for i, (dy, (weight, _, _, b)) in enumerate(zip(grads, maps, strict=True)):
            if needs[0]:
                wide = widened(weight, ctx.packings[i], width)
                dx = dy @ wide if dx is None else dx.addmm_(dy, wide)
            if needs[2 + 4 * i]:
                found[4 * i] = dy.t() @ x
            if needs[3 + 4 * i]:
                found[4 * i + 1] = dy.sum(0)
            if b is not None:
                narrow[i] = (dy @ b).mul_(_factor(pairs[i], dy))
            if needs[5 + 4 * i]:
                found[4 * i + 3] = (dy.t() @ lows[i]).mul_(_factor(pairs[i], dy))
        if narrow and all(masks[i] is None for i in narrow):
            # Undropped, the pairs have one input: one product for all of them.
            gradients, stack = torch.cat([*narrow.values()], 1), _stack(maps)
            if x is not None:
                parts = (gradients.t() @ x).split([len(maps[i][2]) for i in narrow])
                for i, part in zip(narrow, parts, strict=True):
                    found[4 * i + 2] = part
            if dx is not None:
                dx.addmm_(gradients, stack)
        else:
            for i, low in narrow.items():
                rate, mask = pairs[i].dropout, masks[i]
                if x is not None:
                    found[4 * i + 2] = low.t() @ _dropped(x, mask, rate)
                if dx is not None:
                    dx.add_(_undropped(low @ maps[i][2], mask, rate))
        return dx, None, *found


def widened(weight: Tensor, packing: Any, width: torch.dtype) -> Tensor:
    """A matrix as it is multiplied: one of bitsandbytes in 4 bits, `packing` says how, at its full
    width.
    """
    if packing is None:
        return weight.to(width)
    from bitsandbytes.functional import dequantize_4bit

    wide: Tensor = dequantize_4bit(weight.data, packing)
    return wide.to(width)


def _narrowed(
    x: Tensor, pairs: Sequence[Pair], maps: Sequence[Any]
) -> tuple[list[Tensor | None], list[Tensor | None]]:
    """What is dropped of x, and dropout(x) A', map by map: [rows, rank], None without a pair."""
    held = [a for _, _, a, _ in maps if a is not None]
    if held and not any(pair.dropout for pair in pairs):
        parts = iter(torch.split(x @ _stack(maps).t(), [len(a) for a in held], dim=1))
        return [None] * len(maps), [None if a is None else next(parts) for _, _, a, _ in maps]
    masks: list[Tensor | None] = []
    lows: list[Tensor | None] = []
    for pair, (_, _, a, _) in zip(pairs, maps, strict=True):
        dropped, mask = (x, None) if a is None else _drop(x, pair.dropout)
        masks.append(mask)
        lows.append(None if a is None else dropped @ a.t())
    return masks, lows


def _stack(maps: Sequence[Any]) -> Tensor:
    """The A of all pairs, one above the other."""
    held = [a for _, _, a, _ in maps if a is not None]
    return held[0] if len(held) == 1 else torch.cat(held)


def _maps(weights: Sequence[Tensor | None], width: torch.dtype) -> list[tuple[Any, ...]]:
    """W as it is kept, bias, A and B in the width of the products, map by map."""
    return [
        (weights[i], *(w if w is None else w.to(width) for w in weights[i + 1 : i + 4]))
        for i in range(0, len(weights), 4)
    ]


def _factor(pair: Pair, x: Tensor) -> float:
    """What a pair's product is multiplied by. On a CPU that makes up for what is dropped, too: a
    number in place of a pass over the inputs; a card's kernels do it as they drop.
    """
    return pair.scaling if x.is_cuda else pair.scaling / (1 - pair.dropout)


def _drop(x: Tensor, rate: float) -> tuple[Tensor, Tensor | None]:
    """x with inputs dropped, and which were kept: drawn as torch's dropout draws it, so that one
    seed drops the same.
    """
    if not rate:
        return x, None
    if x.is_cuda:
        return torch.native_dropout(x, rate, True)
    mask = torch.empty_like(x, dtype=torch.bool).bernoulli_(1 - rate)
    return _dropped(x, mask, rate), mask


def _dropped(x: Tensor, mask: Tensor | None, rate: float) -> Tensor:
    if mask is None:
        return x
    return _masked(x, mask, rate) if x.is_cuda else x * mask


def _undropped(grad: Tensor, mask: Tensor | None, rate: float) -> Tensor:
    """The gradient by what was dropped, of that behind it; in place on a CPU."""
    if mask is None:
        return grad
    return _masked(grad, mask, rate) if grad.is_cuda else grad.mul_(mask)


def _masked(x: Tensor, mask: Tensor, rate: float) -> Tensor:
    """x * mask / (1 - rate), in one kernel of the card."""
    found: Tensor = torch.ops.aten.native_dropout_backward(x, mask, 1 / (1 - rate))
    return found


class RootNorm(torch.autograd.Function):
    """x / sqrt(mean(x^2) + eps) * weight (Zhang and Sennrich 2019), over the last dimension."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        if x.is_cuda:
            # One kernel, in float32 within.
            out: Tensor
            out, inverse = torch.ops.aten._fused_rms_norm(x, [x.shape[-1]], weight.to(x.dtype), eps)
            ctx.save_for_backward(x, weight, inverse)
            return out
        length = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
        inverse = length.square_().div_(x.shape[-1]).add_(eps).rsqrt_()
        ctx.save_for_backward(x, weight, inverse)
        normed: Tensor = (x * inverse).mul_(weight)
        return normed

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        x, weight, inverse = ctx.saved_tensors
        if x.is_cuda:
            wanted = [ctx.needs_input_grad[0], ctx.needs_input_grad[1]]
            found = torch.ops.aten._fused_rms_norm_backward(
                grads[0], x, [x.shape[-1]], inverse, weight.to(x.dtype), wanted
            )
            return *found, None
        dweight = None
        if ctx.needs_input_grad[1]:
            dweight = (grads[0] * x).mul_(inverse).flatten(0, -2).sum(0)
        if not ctx.needs_input_grad[0]:
            return None, dweight, None
        grad = grads[0] * weight
        along = torch.linalg.vecdot(grad, x)[..., None].mul_(inverse.pow(3)).div_(x.shape[-1])
        return grad.mul_(inverse).addcmul_(x, along, value=-1), dweight, None


class Gated(torch.autograd.Function):
    """silu(gate) * up (Shazeer 2020)."""

    @staticmethod
    def forward(ctx: Any, gate: Tensor, up: Tensor) -> Tensor:
        ctx.save_for_backward(gate, up)
        if fuses(gate):
            from trimtab.train.stream.cuda.triton_kernels import gated

            return gated(gate, up)
        return functional.silu(gate).mul_(up)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        gate, up = ctx.saved_tensors
        if fuses(gate):
            from trimtab.train.stream.cuda.triton_kernels import gated_back

            return gated_back(gate, up, grads[0])
        dup = functional.silu(gate).mul_(grads[0])
        return torch.ops.aten.silu_backward(grads[0] * up, gate), dup
