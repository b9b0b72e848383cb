"""Causal attention over a stream, branch by branch, with the rotation of queries and keys.

Only scores that count are computed: no mask over the whole stream, no padding. The probabilities
are not kept but computed again in the backward pass, which costs one product in five and saves
their square. Imports torch.
"""

from typing import Any

import torch
from torch import Tensor

from trimtab.train.stream.stream import Block, Span


class BranchAttention(torch.autograd.Function):
    """softmax(rotate(q) rotate(k)' / sqrt(D)) v, after Su et al. 2021 (rotary) and Vaswani et al.

    `query` is [queries, heads * D], `key` and `value` are [tokens, kv heads * D]; `turn_q` and
    `turn_k` are (cos, sin), each [rows, D / 2]. Returns [queries, heads * D].
    """

    @staticmethod
    def forward(
        ctx: Any,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        turn_q: tuple[Tensor, Tensor],
        turn_k: tuple[Tensor, Tensor],
        blocks: list[Block],
        size: int,
    ) -> Tensor:
        kv_heads = key.shape[1] // size
        q = _rotated(_heads(query, kv_heads, size), turn_q).mul_(size**-0.5)
        k = _rotated(_heads(key, kv_heads, size), turn_k)
        v = _heads(value, kv_heads, size).contiguous()
        out = torch.empty_like(q)
        for block in blocks:
            probs = _probabilities(q, k, block)
            out[:, block.first : block.last] = (probs @ _gather(v, block)).view(
                kv_heads, block.last - block.first, -1, size
            )
        ctx.save_for_backward(q, k, v, *turn_q, *turn_k)
        ctx.blocks = blocks
        return _rows(out)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        q, k, v, cos_q, sin_q, cos_k, sin_k = ctx.saved_tensors
        kv_heads, size = q.shape[0], q.shape[-1]
        grad = _heads(grads[0], kv_heads, size).contiguous()
        dq, dk, dv = torch.empty_like(q), torch.zeros_like(k), torch.zeros_like(v)
        for block in ctx.blocks:
            asked = q[:, block.first : block.last].flatten(1, 2)
            given = grad[:, block.first : block.last].flatten(1, 2)
            probs = _probabilities(q, k, block)
            _scatter(dv, probs.transpose(1, 2) @ given, block)
            scores = given @ _gather(v, block).transpose(1, 2)
            scores = torch._softmax_backward_data(scores, probs, -1, scores.dtype)
            dq[:, block.first : block.last] = (scores @ _gather(k, block)).view(
                kv_heads, block.last - block.first, -1, size
            )
            _scatter(dk, scores.transpose(1, 2) @ asked, block)
        # A rotation's transpose is the rotation back.
        dq = _rotated(dq, (cos_q, -sin_q)).mul_(size**-0.5)
        dk = _rotated(dk, (cos_k, -sin_k))
        return _rows(dq), _rows(dk), _rows(dv), None, None, None, None


def _heads(x: Tensor, kv_heads: int, size: int) -> Tensor:
    """[rows, heads * D] as [kv heads, rows, heads a kv head, D]: a view."""
    return x.view(x.shape[0], kv_heads, -1, size).transpose(0, 1)


def _rows(x: Tensor) -> Tensor:
    return x.transpose(0, 1).reshape(x.shape[1], -1)


def _rotated(x: Tensor, turn: tuple[Tensor, Tensor]) -> Tensor:
    cos, sin = turn[0][:, None], turn[1][:, None]
    half = x.shape[-1] // 2
    one, two = x[..., :half], x[..., half:]
    out = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    torch.mul(one, cos, out=out[..., :half]).addcmul_(two, sin, value=-1)
    torch.mul(two, cos, out=out[..., half:]).addcmul_(one, sin)
    return out


def _probabilities(q: Tensor, k: Tensor, block: Block) -> Tensor:
    """[kv heads, queries * heads a kv head, keys seen]."""
    count = block.last - block.first
    asked = q[:, block.first : block.last].flatten(1, 2)
    scores = asked @ _gather(k, block).transpose(1, 2)
    ahead = torch.full((count, count), float("-inf"), dtype=q.dtype, device=q.device).triu_(1)
    own = scores.view(q.shape[0], count, -1, scores.shape[-1])[..., -count:]
    # Added, for filling by truth values takes six times as long.
    own.add_(ahead[:, None])
    return torch.softmax(scores, dim=-1)


def _spans(block: Block) -> list[Span]:
    """What is seen, neighbours joined."""
    spans = [*block.past]
    if spans and spans[-1][1] == block.own[0]:
        spans[-1] = (spans[-1][0], block.own[1])
    else:
        spans.append(block.own)
    return spans


def _gather(x: Tensor, block: Block) -> Tensor:
    """[kv heads, keys seen, D]."""
    parts = [x[:, start:end, 0] for start, end in _spans(block)]
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)


def _scatter(into: Tensor, grad: Tensor, block: Block) -> None:
    start = 0
    for first, last in _spans(block):
        into[:, first:last, 0] += grad[:, start : start + last - first]
        start += last - first
