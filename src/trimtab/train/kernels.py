"""The parts of a layer with gradients written by hand: fewer passes over memory, less kept.

A frozen weight gets no gradient, a low-rank pair is added into the product beside it, and what is
cheap to compute again is not kept. Float32. Imports torch.
"""

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as functional
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Pair:
    """What a low-rank pair adds: `scaling` * dropout(x) A' B', inputs dropped at rate `dropout`."""

    scaling: float
    dropout: float


class Projections(torch.autograd.Function):
    """Linear maps of one input, each with its pair where it has one (Hu et al. 2021).

    `x` is [rows, inputs]; `weights` are, map by map, W [outputs, inputs], bias [outputs] or None,
    A [rank, inputs] or None, B [outputs, rank] or None. Returns one [rows, outputs] a map.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, pairs: tuple[Pair, ...], *weights: Tensor | None
    ) -> tuple[Tensor, ...]:
        outputs, kept = [], []
        for pair, (weight, bias, a, b) in zip(pairs, _maps(weights), strict=True):
            y = functional.linear(x, weight, bias)
            mask = low = None
            if a is not None and b is not None:
                mask = _mask(x, pair.dropout)
                low = _dropped(x, mask, pair.dropout) @ a.t()
                y.addmm_(low, b.t(), alpha=pair.scaling)
            outputs.append(y)
            kept += [mask, low]
        ctx.save_for_backward(x, *weights, *kept)
        ctx.pairs = pairs
        return tuple(outputs)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        x, *saved = ctx.saved_tensors
        count = len(ctx.pairs)
        weights, kept = saved[: 4 * count], saved[4 * count :]
        needs = ctx.needs_input_grad
        dx: Tensor | None = None
        found: list[Tensor | None] = []
        for i, (pair, dy) in enumerate(zip(ctx.pairs, grads, strict=True)):
            weight, _, a, b = weights[4 * i : 4 * i + 4]
            mask, low = kept[2 * i : 2 * i + 2]
            wanted = needs[2 + 4 * i : 6 + 4 * i]
            if needs[0]:
                dx = dy @ weight if dx is None else dx.addmm_(dy, weight)
            found += [dy.t() @ x if wanted[0] else None, dy.sum(0) if wanted[1] else None]
            if a is None:
                found += [None, None]
                continue
            narrow = (dy @ b).mul_(pair.scaling)
            found.append(narrow.t() @ _dropped(x, mask, pair.dropout) if wanted[2] else None)
            found.append((dy.t() @ low).mul_(pair.scaling) if wanted[3] else None)
            if dx is not None and mask is None:
                dx.addmm_(narrow, a)
            elif dx is not None:
                dx.addcmul_(narrow @ a, mask.to(x.dtype), value=1 / (1 - pair.dropout))
        return dx, None, *found


def _maps(weights: tuple[Tensor | None, ...]) -> list[tuple[Any, ...]]:
    return [weights[i : i + 4] for i in range(0, len(weights), 4)]


def _mask(x: Tensor, rate: float) -> Tensor | None:
    """Drawn as torch's dropout draws it, so that one seed drops the same."""
    return torch.empty_like(x).bernoulli_(1 - rate).bool() if rate else None


def _dropped(x: Tensor, mask: Tensor | None, rate: float) -> Tensor:
    if mask is None:
        return x
    kept: Tensor = (x * mask).div_(1 - rate)
    return kept


class RootNorm(torch.autograd.Function):
    """x / sqrt(mean(x^2) + eps) * weight (Zhang and Sennrich 2019), over the last dimension."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        length = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
        inverse = length.square_().div_(x.shape[-1]).add_(eps).rsqrt_()
        ctx.save_for_backward(x, weight, inverse)
        normed: Tensor = (x * inverse).mul_(weight)
        return normed

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        x, weight, inverse = ctx.saved_tensors
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
        return functional.silu(gate).mul_(up)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        gate, up = ctx.saved_tensors
        dup = functional.silu(gate).mul_(grads[0])
        return torch.ops.aten.silu_backward(grads[0] * up, gate), dup
