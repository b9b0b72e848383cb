"""Kernels in Triton: each reads what it needs once and computes in float32, whatever the width.

Written for tensors whose last dimension is contiguous. Imports triton, which comes with torch for
CUDA on Linux; under TRITON_INTERPRET=1 they run on a CPU, where tests hold them to torch.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

FLAT = 1024
# Columns of logits at a time.
COLUMNS = 4096


@triton.jit  # type: ignore[untyped-decorator]
def _rotate(  # type: ignore[no-untyped-def]
    x, out, cos, sin, stride, sign, heads, half, all_heads: tl.constexpr, all_half: tl.constexpr
):
    row = tl.program_id(0).to(tl.int64)
    head = tl.arange(0, all_heads)[:, None]
    at = tl.arange(0, all_half)[None, :]
    inside = (head < heads) & (at < half)
    place = head * 2 * half + at
    one = tl.load(x + row * stride + place, mask=inside, other=0.0).to(tl.float32)
    two = tl.load(x + row * stride + place + half, mask=inside, other=0.0).to(tl.float32)
    c = tl.load(cos + row * half + at, mask=at < half, other=0.0).to(tl.float32)
    s = tl.load(sin + row * half + at, mask=at < half, other=0.0).to(tl.float32) * sign
    into = out + row * heads * 2 * half + place
    tl.store(into, one * c - two * s, mask=inside)
    tl.store(into + half, two * c + one * s, mask=inside)


def rotated(x: Tensor, cos: Tensor, sin: Tensor, *, back: bool = False) -> Tensor:
    """`x`, [rows, heads, D], turned by angles whose cosines and sines are [rows, D / 2]."""
    rows, heads, size = x.shape
    out = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    if rows:
        kernel: Any = _rotate[(rows,)]
        kernel(
            x,
            out,
            cos,
            sin,
            x.stride(0),
            -1.0 if back else 1.0,
            heads,
            size // 2,
            all_heads=triton.next_power_of_2(heads),
            all_half=triton.next_power_of_2(size // 2),
        )
    return out


@triton.jit  # type: ignore[untyped-decorator]
def _gate(gate, up, out, count, block: tl.constexpr):  # type: ignore[no-untyped-def]
    at = tl.program_id(0).to(tl.int64) * block + tl.arange(0, block)
    inside = at < count
    g = tl.load(gate + at, mask=inside, other=0.0).to(tl.float32)
    u = tl.load(up + at, mask=inside, other=0.0).to(tl.float32)
    tl.store(out + at, g * tl.sigmoid(g) * u, mask=inside)


def gated(gate: Tensor, up: Tensor) -> Tensor:
    """silu(gate) * up, of contiguous tensors."""
    out = torch.empty_like(gate)
    kernel: Any = _gate[(triton.cdiv(gate.numel(), FLAT),)]
    kernel(gate, up, out, gate.numel(), block=FLAT)
    return out


@triton.jit  # type: ignore[untyped-decorator]
def _gate_back(gate, up, grad, dgate, dup, count, block: tl.constexpr):  # type: ignore[no-untyped-def]
    at = tl.program_id(0).to(tl.int64) * block + tl.arange(0, block)
    inside = at < count
    g = tl.load(gate + at, mask=inside, other=0.0).to(tl.float32)
    u = tl.load(up + at, mask=inside, other=0.0).to(tl.float32)
    d = tl.load(grad + at, mask=inside, other=0.0).to(tl.float32)
    sigmoid = tl.sigmoid(g)
    tl.store(dgate + at, d * u * sigmoid * (1 + g * (1 - sigmoid)), mask=inside)
    tl.store(dup + at, d * g * sigmoid, mask=inside)


def gated_back(gate: Tensor, up: Tensor, grad: Tensor) -> tuple[Tensor, Tensor]:
    """The gradients of `gate` and `up`."""
    dgate, dup = torch.empty_like(gate), torch.empty_like(up)
    kernel: Any = _gate_back[(triton.cdiv(gate.numel(), FLAT),)]
    kernel(gate, up, grad.contiguous(), dgate, dup, gate.numel(), block=FLAT)
    return dgate, dup


@triton.jit  # type: ignore[untyped-decorator]
def _labels(  # type: ignore[no-untyped-def]
    logits,
    slopes,
    targets,
    logprobs,
    entropy,
    likeliest,
    stride,
    columns: tl.constexpr,
    sloped: tl.constexpr,
    measured: tl.constexpr,
    block: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    logits += row * stride
    slopes += row * stride
    target = tl.load(targets + row)
    # Not infinity, which times a probability of 0 is no number.
    top = -3.0e38
    total = 0.0
    weighted = 0.0
    for start in range(0, columns, block):
        at = start + tl.arange(0, block)
        x = tl.load(logits + at, mask=at < columns, other=-3.0e38).to(tl.float32)
        higher = tl.maximum(top, tl.max(x, 0))
        rescale = tl.exp(top - higher)
        part = tl.exp(x - higher)
        total = total * rescale + tl.sum(part, 0)
        if measured:
            weighted = weighted * rescale + tl.sum(part * x, 0)
        top = higher
    own = tl.load(logits + target).to(tl.float32)
    norm = top + tl.log(total)
    tl.store(logprobs + row, own - norm)
    if measured:
        tl.store(entropy + row, norm - weighted / total)
        tl.store(likeliest + row, (own >= top).to(tl.int8))
    if sloped:
        for start in range(0, columns, block):
            at = start + tl.arange(0, block)
            inside = at < columns
            x = tl.load(logits + at, mask=inside, other=-3.0e38).to(tl.float32)
            probs = tl.exp(x - norm)
            tl.store(slopes + at, tl.where(at == target, 1.0 - probs, -probs), mask=inside)


def labelled(
    logits: Tensor,
    targets: Tensor,
    logprobs: Tensor,
    entropy: Tensor | None,
    likeliest: Tensor | None,
    slopes: Tensor | None,
) -> None:
    """Fill, of `logits` [labels, vocabulary], the log-probabilities of `targets`; where there are
    tensors for them, the entropy in nats, whether the label is likeliest (int8), and the gradient
    of the log-probability by the logits, [labels, vocabulary].
    """
    if not len(targets):
        return
    kernel: Any = _labels[(len(targets),)]
    kernel(
        logits,
        logits if slopes is None else slopes,
        targets,
        logprobs,
        logprobs if entropy is None else entropy,
        logprobs if likeliest is None else likeliest,
        logits.stride(0),
        columns=logits.shape[1],
        sloped=slopes is not None,
        measured=entropy is not None,
        block=min(COLUMNS, triton.next_power_of_2(logits.shape[1])),
        num_warps=8,
    )
