"""Each kernel of a GPU by itself against plain torch in double precision, at the edges: one token,
blocks that are just full, ranks of every size, tiles that are nobody's. Interpreted on a CPU.
"""

import random
from collections.abc import Sequence
from dataclasses import replace
from importlib.util import find_spec
from typing import Any

import pytest
import torch

from tests.engine.test_cuda_ops import CLOSE, DEVICE, DTYPES
from tests.engine.test_ops import shape
from trimtab.engine.continuous.blocks import BLOCK
from trimtab.engine.continuous.cache import Cache
from trimtab.engine.llama.family import Shape
from trimtab.engine.llama.lora import Adapter
from trimtab.engine.llama.pair import Pair, Up
from trimtab.engine.ops.cuda.tiles import Tiles, patches, rows_for
from trimtab.engine.ops.cuda.tiles import attention as attention_tiles
from trimtab.engine.ops.torch_ops import adapt_segment

pytestmark = [
    pytest.mark.skipif(find_spec("triton") is None, reason="Triton is not installed"),
    pytest.mark.filterwarnings("ignore:Conversion of an array with ndim:DeprecationWarning"),
    pytest.mark.usefixtures("interpreted"),
]

HELD = ((0, 1), (15, 1), (16, 1), (0, 17), (16, 16), (31, 2), (47, 17), (63, 66))
"""Tokens that a sequence has already, and those that come."""
EMPTY = 3
"""Tiles of nobody."""


def normal(*size: int, dtype: torch.dtype, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(size, generator=generator).to(DEVICE, dtype)


def near(found: torch.Tensor, expected: torch.Tensor, dtype: torch.dtype) -> None:
    assert torch.isfinite(found.float()).all()
    largest = max(1.0, float(expected.double().abs().max()))
    assert (found.double() - expected.double()).abs().max() < CLOSE[dtype] * largest


def with_nobodys(places: Sequence[tuple[int, ...]], dtype: torch.dtype, rows: int) -> Tiles:
    told = [*places, *[(0,) * len(places[0])] * EMPTY]
    return Tiles(torch.tensor(told, dtype=dtype, device=DEVICE), rows)


def strange(sizes: Shape, blocks: int, dtype: torch.dtype) -> Cache:
    """Memory as it is found: not numbers."""
    cache = Cache(replace(sizes, layers=1), blocks, dtype, DEVICE)
    cache.keys.fill_(torch.nan)
    cache.values.fill_(torch.nan)
    return cache


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("group", "head_dim"), [(1, 64), (3, 64), (4, 128), (8, 128)])
@pytest.mark.parametrize("held", [HELD, HELD[:3]], ids=["prompts", "answers"])
def test_attention_over_what_is_held_and_nothing_else(
    dtype: torch.dtype, group: int, head_dim: int, held: Sequence[tuple[int, int]]
) -> None:
    from trimtab.engine.ops.cuda import attention

    sizes = shape(2 * group, 2, head_dim)
    counts = [before + count for before, count in held]
    tokens = sum(count for _, count in held)
    tables, blocks = [], list(range(40))
    random.Random(1).shuffle(blocks)
    for count in counts:
        tables.append([blocks.pop() for _ in range(-(-count // BLOCK))])
    cache = strange(sizes, 41, dtype)
    qkv = normal(tokens, sizes.qkv_width, dtype=dtype)
    expected = torch.zeros(tokens, sizes.q_width, dtype=torch.float64, device=DEVICE)
    spans, start = [], 0
    for number, (before, count) in enumerate(held):
        size = (before + count, 2, head_dim)
        keys, values = (normal(*size, dtype=dtype, seed=10 * number + i) for i in range(2))
        own = tables[number]
        places = torch.tensor([own[at // BLOCK] * BLOCK + at % BLOCK for at in range(size[0])])
        cache.store(0, places.to(DEVICE), keys, values)
        spans.append((start, start + count))
        rows = slice(start, start + count)
        query = qkv[rows, : sizes.q_width].double().view(count, 2, group, head_dim)
        scores = torch.einsum("tkgd,nkd->kgtn", query, keys.double()) * head_dim**-0.5
        seen = torch.arange(size[0]) <= torch.arange(before, size[0]).unsqueeze(1)
        weights = scores.masked_fill(~seen.to(DEVICE), -torch.inf).softmax(-1)
        told = torch.einsum("kgtn,nkd->tkgd", weights, values.double())
        expected[rows] = told.reshape(count, -1)
        start += count
    height = rows_for(max(count for _, count in held), group)
    shared_out = attention_tiles(spans, counts, group, height)
    tiles = with_nobodys(shared_out, torch.int32, height)
    table = torch.zeros(len(held), max(map(len, tables)), dtype=torch.int32)
    for row, own in zip(table, tables, strict=True):
        row[: len(own)] = torch.tensor(own)
    out = torch.full((tokens + 2, sizes.q_width), 7.0, dtype=dtype, device=DEVICE)
    attention.attend(qkv, out, tiles, table.to(DEVICE), 0, cache)
    near(out[:tokens], expected, dtype)
    assert (out[tokens:] == 7).all()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("heads", "kv_heads", "head_dim"), [(3, 1, 64), (8, 2, 128), (5, 5, 20)])
@pytest.mark.parametrize("normed", [False, True], ids=["plain", "normed"])
def test_a_rotation_stores_where_it_was_told_and_nobodys_nowhere(
    dtype: torch.dtype, heads: int, kv_heads: int, head_dim: int, normed: bool
) -> None:
    from trimtab.engine.ops.cuda import rows
    from trimtab.engine.ops.torch_ops import rms_norm

    sizes = shape(heads, kv_heads, head_dim)
    places = torch.tensor([15, -1, 16, 31, 5 * BLOCK, -1])
    cache = strange(sizes, 6, dtype)
    qkv = normal(len(places), sizes.qkv_width, dtype=dtype)
    angles = torch.arange(len(places)).unsqueeze(1) * torch.rand(head_dim // 2)
    cos, sin = angles.cos().to(DEVICE), angles.sin().to(DEVICE)
    norms = [normal(head_dim, dtype=dtype, seed=i) if normed else None for i in (1, 2)]
    whole = qkv.clone().view(len(places), -1, head_dim)
    q, k, v = whole.split([heads, kv_heads, kv_heads], dim=1)
    if norms[0] is not None and norms[1] is not None:
        q, k = rms_norm(q, norms[0], sizes.epsilon), rms_norm(k, norms[1], sizes.epsilon)

    def turned(x: torch.Tensor) -> torch.Tensor:
        one, two = x.double().chunk(2, dim=-1)
        c, s = cos.double().unsqueeze(1), sin.double().unsqueeze(1)
        return torch.cat([one * c - two * s, two * c + one * s], dim=-1)

    layer: Any = type("Norms", (), {"q_norm": norms[0], "k_norm": norms[1]})
    rows.rotate_and_store(qkv, 0, layer, places.to(DEVICE), (cos, sin), cache)
    near(qkv.view_as(whole)[:, :heads], turned(q), dtype)
    assert torch.equal(qkv.view_as(whole)[:, heads:], whole[:, heads:])
    known = places >= 0
    block, at = (places[known] // BLOCK).to(DEVICE), (places[known] % BLOCK).to(DEVICE)
    by_place = cache.keys[0].permute(0, 3, 1, 2)
    near(by_place[block, at], turned(k)[known.to(DEVICE)], dtype)
    assert torch.equal(cache.values[0].transpose(1, 2)[block, at], v[known.to(DEVICE)])
    written = int(known.sum()) * kv_heads * head_dim
    for half in (cache.keys, cache.values):
        assert int(half.isfinite().sum()) == written


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("width", [8, 17, 576])
def test_a_norm_of_any_width_and_what_is_added_first(dtype: torch.dtype, width: int) -> None:
    from trimtab.engine.ops.cuda import rows
    from trimtab.engine.ops.torch_ops import rms_norm

    weight = normal(width, dtype=dtype, seed=3)
    for tokens, added in ((1, False), (17, True)):
        x = normal(tokens, width, dtype=dtype)
        delta = normal(tokens, width, dtype=dtype, seed=2) if added else None
        summed = x if delta is None else x + delta
        expected = rms_norm(summed, weight, 1e-5)
        out = torch.empty_like(x)
        rows.norm(x, delta, weight, out, 1e-5)
        near(out, expected, dtype)
        # Not to the bit: interpreted, a sum is cut to bfloat16 and not rounded.
        near(x, summed, dtype)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("width", [1, 1023, 1025])
def test_a_gate_of_any_width(dtype: torch.dtype, width: int) -> None:
    from trimtab.engine.ops.cuda import rows

    gate_up = 8 * normal(17, 2 * width, dtype=dtype)
    out = torch.empty(17, width, dtype=dtype, device=DEVICE)
    rows.gate(gate_up, out)
    gate, up = gate_up.double().chunk(2, dim=1)
    near(out, torch.nn.functional.silu(gate) * up, dtype)


BOUNDS, OUTPUTS, INPUTS = (0, 130, 180), 230, 300
RANKS = ((1, 1, 1), (64, 0, 2), (5, 17, 33), (0, 16, 0))
"""Of each projection; 0 where an adapter leaves it alone."""


def pair_of(ranks: Sequence[int], dtype: torch.dtype, seed: int, dora: bool, zero: bool) -> Pair:
    ups, row = [], 0
    lengthen = torch.ones(OUTPUTS, dtype=dtype, device=DEVICE)
    for rank, begin, end in zip(ranks, BOUNDS, (*BOUNDS[1:], OUTPUTS), strict=True):
        if rank:
            weight = normal(rank, end - begin, dtype=dtype, seed=seed + begin) / 4
            ups.append(Up(weight * (not zero), row, begin))
            lengthen[begin:end] += normal(end - begin, dtype=dtype, seed=seed) / 8
            row += rank
    down = normal(row, INPUTS, dtype=dtype, seed=seed) / 16
    return Pair(down, tuple(ups), lengthen if dora else None)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("counts", [(1, 1, 2, 1), (17, 64, 65, 1)], ids=["answers", "prompts"])
def test_adapters_of_every_rank_add_to_their_own_tokens(
    dtype: torch.dtype, counts: Sequence[int]
) -> None:
    """One of them adds nothing, one has DoRA; between them are tokens of the base."""
    from trimtab.engine.ops.cuda import adapters

    pairs = [
        pair_of(ranks, dtype, 50 * i, dora=i == 2, zero=i == 0) for i, ranks in enumerate(RANKS)
    ]
    held = [Adapter({(1, "qkv"): pair}) for pair in pairs]
    tables = [adapters.table(each, 2, {"qkv": BOUNDS}).to(DEVICE) for each in held]
    spans, start = [], 1
    for count, table in zip(counts, tables, strict=True):
        spans.append((start, start + count, table.data_ptr()))
        start += count + 1
    height = 16 if max(counts) == 2 else 64
    tiles = with_nobodys(patches(spans, height), torch.int64, height)
    x = normal(start, INPUTS, dtype=dtype, seed=1)
    y = normal(start, OUTPUTS, dtype=dtype, seed=2)
    expected, before = y.double(), y.clone()
    for (begin, end, _), pair in zip(spans, pairs, strict=True):
        ups = tuple(replace(up, weight=up.weight.double()) for up in pair.ups)
        lengthen = None if pair.lengthen is None else pair.lengthen.double()
        wide = Pair(pair.down.double(), ups, lengthen)
        adapt_segment(expected[begin:end], x[begin:end].double(), wide)
    place = len(adapters.GROUPS) + adapters.GROUPS.index("qkv")
    adapters.adapt(y, x, tiles, place, BOUNDS, 128)
    near(y, expected, dtype)
    for begin, end, _ in [(0, 1, 0), *[(end, end + 1, 0) for _, end, _ in spans]]:
        assert torch.equal(y[begin:end], before[begin:end])
    # What has nothing at a place leaves it as it is.
    other = y.clone()
    adapters.adapt(other, x, tiles, place - 1, BOUNDS, 128)
    assert torch.equal(other, y)
