"""The GPU's kernels against plain torch: on a GPU where there is one, else interpreted on a CPU."""

from dataclasses import replace
from importlib.util import find_spec
from typing import Any

import pytest
import torch

from tests.engine.test_ops import low_rank, mixed_step, narrow_network, shape
from trimtab.engine.continuous.batch import Part, lay_out
from trimtab.engine.continuous.cache import Cache
from trimtab.engine.llama.family import Shape
from trimtab.engine.llama.lora import Adapter
from trimtab.engine.llama.pages import Pages
from trimtab.engine.llama.pair import Pair, Up
from trimtab.engine.llama.rope import frequencies
from trimtab.engine.ops import TorchOps

pytestmark = [
    pytest.mark.skipif(find_spec("triton") is None, reason="Triton is not installed"),
    # By Triton's interpreter.
    pytest.mark.filterwarnings("ignore:Conversion of an array with ndim:DeprecationWarning"),
    pytest.mark.usefixtures("interpreted"),
]

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
CLOSE = {torch.float32: 1e-4, torch.bfloat16: 5e-2}
DTYPES = list(CLOSE)


def cuda_ops(sizes: Shape, dtype: torch.dtype) -> Any:
    from trimtab.engine.ops.cuda.cuda_ops import CudaOps

    return CudaOps(sizes, dtype, DEVICE)


def filled(sizes: Shape, blocks: int, dtype: torch.dtype) -> Cache:
    """What others left in the cache."""
    cache = Cache(sizes, blocks, dtype, DEVICE)
    generator = torch.Generator().manual_seed(7)
    for half in (cache.keys, cache.values):
        half.copy_(torch.randn(half.shape, generator=generator))
    return cache


def moved(tree: Any, dtype: torch.dtype) -> Any:
    tree.before_attention = tree.before_attention.to(DEVICE, dtype)
    tree.before_mlp = tree.before_mlp.to(DEVICE, dtype)
    tree.q_norm = tree.q_norm.to(DEVICE, dtype)
    tree.k_norm = tree.k_norm.to(DEVICE, dtype)
    return tree


def compared(sizes: Shape, dtype: torch.dtype, make_parts: Any, depth: int = 2) -> None:
    """Both through the same layers, over the same cache; ours as a graph, which other steps have
    used before, and for itself.
    """
    radians = frequencies(sizes.rope, sizes.head_dim).to(DEVICE)
    sizes = replace(sizes, layers=depth)
    found = []
    whole, graphs = cuda_ops(sizes, dtype), cuda_ops(sizes, dtype)
    whole._graphs = None
    # How a step is filled up to a graph's size, test_graphs asks: interpreted it takes minutes.
    tried = [whole, graphs] if DEVICE.type == "cuda" else [whole]
    for ops in (TorchOps(dtype, DEVICE), *tried):
        layers = [moved(layer, dtype) for layer in narrow_network(ops, sizes, depth)]
        parts = make_parts(ops)
        cache = filled(sizes, 100, dtype)
        used = (parts[::-1], parts) if ops is graphs else (parts,)
        for some in used:
            batch = lay_out(some, radians, DEVICE)
            generator = torch.Generator().manual_seed(1)
            x = torch.randn(len(batch.tokens), sizes.hidden, generator=generator)
            with torch.inference_mode():
                given = x.to(DEVICE, dtype)
                out = ops.through(given, layers, sizes, batch, cache).clone()
        found.append((out, cache.keys, cache.values))
    expected, *ours = found
    for theirs, mine in [pair for each in ours for pair in zip(expected, each, strict=True)]:
        assert torch.isfinite(mine.float()).all()
        error = (mine.double() - theirs.double()).abs().max()
        assert error < CLOSE[dtype] * max(1.0, float(theirs.double().abs().max()))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("heads", "kv_heads", "head_dim"), [(3, 1, 16), (4, 4, 8), (8, 1, 20)])
def test_a_step_of_chunks_single_tokens_and_adapters(
    dtype: torch.dtype, heads: int, kv_heads: int, head_dim: int
) -> None:
    sizes = shape(heads, kv_heads, head_dim)
    low_ranks = low_rank(sizes, 2)
    compared(sizes, dtype, lambda ops: mixed_step(ops, low_ranks))


RANKS = {"qkv": (5, 5, 5), "o": (20,), "gate_up": (3, 3), "down": (17,)}


def whole_adapter(
    ops: Any, sizes: Shape, seed: int, without: str = "", dora: bool = False
) -> Adapter:
    """On all projections but the second of `without`."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*size: int) -> torch.Tensor:
        return torch.randn(size, generator=generator) / 4

    widths = {
        "qkv": (sizes.q_width, sizes.kv_width, sizes.kv_width),
        "o": (sizes.hidden,),
        "gate_up": (sizes.intermediate, sizes.intermediate),
        "down": (sizes.hidden,),
    }
    inputs = {"o": sizes.q_width, "down": sizes.intermediate}
    pairs, pages = {}, Pages()
    for layer in range(sizes.layers):
        for group, ranks in RANKS.items():
            ups, row, column = [], 0, 0
            lengthen = torch.ones(sum(widths[group]))
            for number, (rank, width) in enumerate(zip(ranks, widths[group], strict=True)):
                if not (group == without and number == 1):
                    ups.append(Up(normal(rank, width), row, column))
                    row += rank
                    lengthen[column : column + width] += normal(width)
                column += width
            down = normal(row, inputs.get(group, sizes.hidden))
            pair = Pair(down, tuple(ups), lengthen if dora else None)
            pairs[layer, group] = ops.pair(pair, pages)
    return Adapter(pairs)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_steps_of_one_token_with_adapters_of_every_kind(dtype: torch.dtype) -> None:
    """Neighbours of one adapter, one without, one that leaves a projection alone, one with DoRA."""
    sizes = replace(shape(6, 2, 16), layers=2)

    def parts(ops: Any) -> list[Part]:
        adapters = [
            whole_adapter(ops, sizes, 1),
            None,
            whole_adapter(ops, sizes, 2, without="qkv"),
            whole_adapter(ops, sizes, 3, without="gate_up", dora=True),
        ]
        told = [adapters[i] for i in (0, 0, 1, 2, 3, 3, 3)]
        return [
            Part([7], 13 * i, list(range(8 * i, 8 * i + 8)), 1, adapter)
            for i, adapter in enumerate(told)
        ]

    compared(sizes, dtype, parts)


def test_a_long_chunk_with_an_adapter_and_biases() -> None:
    sizes = replace(shape(4, 2, 16), layers=2)

    def parts(ops: Any) -> list[Part]:
        adapter = whole_adapter(ops, sizes, 1)
        return [
            Part(range(90), 20, list(range(7)), 3, adapter),
            Part(range(20), 0, list(range(20, 30)), 0, whole_adapter(ops, sizes, 2)),
        ]

    compared(sizes, torch.float32, parts)
