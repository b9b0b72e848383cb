"""What is computed token by token: the norms, rotation into the cache, SwiGLU."""

import torch
import triton
import triton.language as tl

from trimtab.engine.continuous.blocks import BLOCK
from trimtab.engine.continuous.cache import Cache
from trimtab.engine.llama.weights import Layer

GATED = 1024
"""Numbers that a program of `gate` makes."""


@triton.jit
def _norm(
    x: tl.tensor,
    delta: tl.tensor,
    weight: tl.tensor,
    out: tl.tensor,
    epsilon: tl.tensor,
    width: tl.constexpr,
    padded: tl.constexpr,
    adds: tl.constexpr,
) -> None:
    at = tl.arange(0, padded)
    inside = at < width
    row = tl.program_id(0).to(tl.int64) * width
    stored = x.dtype.element_ty
    numbers = tl.load(x + row + at, mask=inside, other=0.0)
    if adds:
        more = tl.load(delta + row + at, mask=inside, other=0.0)
        numbers = (numbers.to(tl.float32) + more.to(tl.float32)).to(stored)
        tl.store(x + row + at, numbers, mask=inside)
    wide = numbers.to(tl.float32)
    wide = wide * tl.rsqrt(tl.sum(wide * wide, 0) / width + epsilon)
    # Rounded before the weight comes to it, as the reference is.
    scaled = tl.load(weight + at, mask=inside, other=0.0).to(tl.float32)
    scaled *= wide.to(stored).to(tl.float32)
    tl.store(out + row + at, scaled.to(stored), mask=inside)


def norm(
    x: torch.Tensor,
    delta: torch.Tensor | None,
    weight: torch.Tensor,
    out: torch.Tensor,
    epsilon: float,
) -> None:
    """Add `delta` to `x` in place, then the root-mean-square norm of it into `out`."""
    width = x.shape[1]
    _norm[(len(x),)](
        x,
        x if delta is None else delta,
        weight,
        out,
        epsilon,
        width=width,
        padded=triton.next_power_of_2(width),
        adds=delta is not None,
        num_warps=4 if width <= 2048 else 8,
    )


@triton.jit
def _rotate(
    qkv: tl.tensor,
    q_norm: tl.tensor,
    k_norm: tl.tensor,
    cos: tl.tensor,
    sin: tl.tensor,
    keys: tl.tensor,
    values: tl.tensor,
    places: tl.tensor,
    qkv_width: tl.tensor,
    block_width: tl.tensor,
    token_step: tl.tensor,
    number_step: tl.tensor,
    epsilon: tl.tensor,
    heads: tl.constexpr,
    kv_heads: tl.constexpr,
    half: tl.constexpr,
    padded_heads: tl.constexpr,
    padded_half: tl.constexpr,
    block_tokens: tl.constexpr,
    normed: tl.constexpr,
) -> None:
    token = tl.program_id(0)
    place = tl.load(places + token)
    head = tl.arange(0, padded_heads)[:, None]
    d = tl.arange(0, padded_half)[None, :]
    mask = (head < heads + 2 * kv_heads) & (d < half)
    stored = qkv.dtype.element_ty
    at = qkv + token.to(tl.int64) * qkv_width + head * 2 * half + d
    first = tl.load(at, mask=mask, other=0.0)
    second = tl.load(at + half, mask=mask, other=0.0)
    turns = head < heads + kv_heads
    if normed:
        a, b = first.to(tl.float32), second.to(tl.float32)
        squares = tl.sum(a * a + b * b, 1) / (2 * half)
        root = tl.rsqrt(squares + epsilon)[:, None]
        weights = tl.where(head < heads, q_norm + d, k_norm + d)
        turned = mask & turns
        one = tl.load(weights, mask=turned, other=1.0).to(tl.float32)
        one *= (a * root).to(stored).to(tl.float32)
        two = tl.load(weights + half, mask=turned, other=1.0).to(tl.float32)
        two *= (b * root).to(stored).to(tl.float32)
        first = tl.where(turns, one.to(stored), first)
        second = tl.where(turns, two.to(stored), second)
    c = tl.load(cos + token * half + d, mask=d < half, other=1.0)
    s = tl.load(sin + token * half + d, mask=d < half, other=0.0)
    a, b = first.to(tl.float32), second.to(tl.float32)
    one = tl.where(turns, a * c - b * s, a).to(stored)
    two = tl.where(turns, b * c + a * s, b).to(stored)
    query = mask & (head < heads)
    tl.store(at, one, mask=query)
    tl.store(at + half, two, mask=query)
    block = (place // block_tokens).to(tl.int64) * block_width
    number = (head - heads) % kv_heads
    within = place % block_tokens
    begin = block + number * block_tokens * 2 * half
    into = begin + within * token_step + d * number_step
    known = mask & (place >= 0)
    key = known & (head >= heads) & turns
    tl.store(keys + into, one, mask=key)
    tl.store(keys + into + half * number_step, two, mask=key)
    value = known & (head >= heads + kv_heads)
    into = begin + within * 2 * half + d
    tl.store(values + into, one, mask=value)
    tl.store(values + into + half, two, mask=value)


def rotate_and_store(
    qkv: torch.Tensor,
    index: int,
    layer: Layer,
    places: torch.Tensor,
    rotations: tuple[torch.Tensor, torch.Tensor],
    cache: Cache,
) -> None:
    """Rotates the queries of `qkv` (tokens, qkv width) in place; keys and values go to their
    `places` in layer `index` of the cache. A place below nought is nobody's.
    """
    shape = cache.shape
    keys, values = cache.keys[index], cache.values[index]
    half = shape.head_dim // 2
    _rotate[(len(qkv),)](
        qkv,
        qkv if layer.q_norm is None else layer.q_norm,
        qkv if layer.k_norm is None else layer.k_norm,
        *rotations,
        keys,
        values,
        places,
        qkv.stride(0),
        keys.stride(0),
        keys.stride(3),
        keys.stride(2),
        shape.epsilon,
        heads=shape.heads,
        kv_heads=shape.kv_heads,
        half=half,
        padded_heads=triton.next_power_of_2(shape.heads + 2 * shape.kv_heads),
        padded_half=triton.next_power_of_2(half),
        block_tokens=BLOCK,
        normed=layer.q_norm is not None,
        num_warps=4,
    )


@triton.jit
def _gate(gate_up: tl.tensor, out: tl.tensor, width: tl.tensor, columns: tl.constexpr) -> None:
    row = tl.program_id(0).to(tl.int64)
    at = tl.program_id(1) * columns + tl.arange(0, columns)
    inside = at < width
    begin = gate_up + 2 * row * width
    gate = tl.load(begin + at, mask=inside, other=0.0).to(tl.float32)
    up = tl.load(begin + width + at, mask=inside, other=0.0).to(tl.float32)
    made = gate / (1 + tl.exp(-gate)) * up
    tl.store(out + row * width + at, made.to(out.dtype.element_ty), mask=inside)


def gate(gate_up: torch.Tensor, out: torch.Tensor) -> None:
    """SwiGLU: silu of the first half of each row, times the second."""
    width = out.shape[1]
    grid = (len(out), triton.cdiv(width, GATED))
    _gate[grid](gate_up, out, width, columns=GATED, num_warps=4)
