"""Causal attention over the paged cache, for chunks of prompts and single tokens alike.

A program computes one tile: some neighbouring tokens of a sequence, for all the heads that share a
head of keys. It goes over the sequence's blocks once and keeps the softmax's normaliser as it goes
(Milakov and Gimelshein, 2018), as FlashAttention does (Dao et al., 2022).
"""

import torch
import triton
import triton.language as tl

from trimtab.engine.continuous.blocks import BLOCK
from trimtab.engine.continuous.cache import Cache
from trimtab.engine.ops.cuda.tiles import Tiles

LARGEST_HEAD = 512
"""Bytes of a head of keys, at most, that `keys_at_once` has room for."""


# A table is as wide as the longest sequence of a step: no reason to compile anew.
@triton.jit(do_not_specialize=["table_width"])
def _attend(
    queries: tl.tensor,
    keys: tl.tensor,
    values: tl.tensor,
    out: tl.tensor,
    tiles: tl.tensor,
    tables: tl.tensor,
    table_width: tl.tensor,
    query_width: tl.tensor,
    out_width: tl.tensor,
    block_width: tl.tensor,
    token_step: tl.tensor,
    number_step: tl.tensor,
    scale: tl.tensor,
    group: tl.constexpr,
    head_dim: tl.constexpr,
    padded: tl.constexpr,
    block_tokens: tl.constexpr,
    rows: tl.constexpr,
    columns: tl.constexpr,
) -> None:
    tile = tiles + 4 * tl.program_id(0)
    head = tl.program_id(1)
    row, count = tl.load(tile), tl.load(tile + 1)
    table = tables + tl.load(tile + 2) * table_width
    first = tl.load(tile + 3)
    end = tl.where(count > 0, first + count, 0)

    m = tl.arange(0, rows)
    d = tl.arange(0, padded)
    in_head = d < head_dim
    token = m // group
    live = token < count
    place = (head * group + m % group) * head_dim
    wanted = live[:, None] & in_head[None, :]
    asked = (row + token) * query_width + place
    query = tl.load(queries + asked[:, None] + d[None, :], mask=wanted, other=0.0)
    position = first + token

    most = tl.full([rows], float("-inf"), tl.float32)
    total = tl.zeros([rows], tl.float32)
    sums = tl.zeros([rows, padded], tl.float32)
    for start in range(0, end, columns):
        n = start + tl.arange(0, columns)
        held = n < end
        block = tl.load(table + n // block_tokens, mask=held, other=0).to(tl.int64)
        begin = block * block_width + head * block_tokens * head_dim
        at = n % block_tokens
        # What lies beyond may be another's, and not a number.
        key_mask = held[None, :] & in_head[:, None]
        lies = (begin + at * token_step)[None, :] + d[:, None] * number_step
        key = tl.load(keys + lies, mask=key_mask, other=0.0)
        scores = tl.dot(query, key, input_precision="ieee") * scale
        scores = tl.where(n[None, :] <= position[:, None], scores, float("-inf"))
        higher = tl.maximum(most, tl.max(scores, 1))
        kept = tl.exp(most - higher)
        weights = tl.exp(scores - higher[:, None])
        total = total * kept + tl.sum(weights, 1)
        value_mask = held[:, None] & in_head[None, :]
        lies = (begin + at * head_dim)[:, None] + d[None, :]
        value = tl.load(values + lies, mask=value_mask, other=0.0)
        sums = sums * kept[:, None]
        sums += tl.dot(weights.to(value.dtype), value, input_precision="ieee")
        most = higher
    into = (row + token) * out_width + place
    # A tile that is nobody's has summed up nothing.
    attended = sums / tl.where(total > 0, total, 1.0)[:, None]
    tl.store(out + into[:, None] + d[None, :], attended.to(out.dtype.element_ty), mask=wanted)


def padded_head(head_dim: int) -> int:
    """Numbers of a head as the matrix units take them."""
    return max(16, int(triton.next_power_of_2(head_dim)))


def keys_at_once(head_bytes: int) -> int:
    """Keys of a sequence that a program holds beside its queries: the smallest cards share 64 KB
    (Turing) or 99 KB (GeForce from Ampere on) among a program's tiles.
    """
    return 64 if head_bytes <= LARGEST_HEAD // 2 else 32


def attend(
    qkv: torch.Tensor,
    out: torch.Tensor,
    tiles: Tiles,
    tables: torch.Tensor,
    index: int,
    cache: Cache,
) -> None:
    """`qkv` (tokens, qkv width), rotated, and what layer `index` of the cache holds, into `out`
    (tokens, query width). `tables` are (sequences, blocks).
    """
    shape = cache.shape
    keys, values = cache.keys[index], cache.values[index]
    padded = padded_head(shape.head_dim)
    _attend[(len(tiles.places), shape.kv_heads)](
        qkv,
        keys,
        values,
        out,
        tiles.places,
        tables,
        tables.stride(0),
        qkv.stride(0),
        out.stride(0),
        keys.stride(0),
        keys.stride(3),
        keys.stride(2),
        shape.head_dim**-0.5,
        group=shape.heads // shape.kv_heads,
        head_dim=shape.head_dim,
        padded=padded,
        block_tokens=BLOCK,
        rows=tiles.rows,
        columns=keys_at_once(padded * keys.element_size()),
        num_warps=4,
        num_stages=2,
    )
