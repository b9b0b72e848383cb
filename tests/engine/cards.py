"""Cards that are not there: Triton builds kernels for one as it would on it, and nothing runs.

    TRITON_INTERPRET=0 python -m tests.engine.cards variants | sm_75 | sm_86 ...

Tells as JSON how many variants of each kernel a server's life builds, or the shared memory of each
kernel on a card, in bytes. Triton decides as it is imported whether it interprets: hence a process.
"""

import json
import random
import sys
from collections import Counter
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import torch

from tests.engine.test_ops import shape
from trimtab.engine.continuous.batch import Part, lay_out
from trimtab.engine.continuous.blocks import BLOCK
from trimtab.engine.continuous.cache import Cache
from trimtab.engine.llama.family import Shape
from trimtab.engine.llama.linear import plain
from trimtab.engine.llama.lora import Adapter
from trimtab.engine.llama.pair import Pair, Up
from trimtab.engine.llama.rope import frequencies
from trimtab.engine.llama.weights import Layer

CPU = torch.device("cpu")
SHARED = {75: 64 << 10, 80: 163 << 10, 86: 99 << 10, 90: 227 << 10, 120: 99 << 10}
"""Bytes that a program may use, by compute capability: CUDA's programming guide, table of them."""


class Driver:
    """What Triton asks of the card that it builds for."""

    def __init__(self, capability: int) -> None:
        self._capability = capability

    def get_current_target(self) -> Any:
        from triton.backends.compiler import GPUTarget

        return GPUTarget("cuda", self._capability, 32)

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int) -> int:
        return 0


def built_on(capability: int) -> list[tuple[str, Any]]:
    """Launches build from now on and do nothing else; what they built is put here."""
    from triton.runtime.driver import driver
    from triton.runtime.jit import JITFunction

    driver.set_active(Driver(capability))
    found: list[tuple[str, Any]] = []
    launch = JITFunction.run

    def run(self: Any, *given: Any, grid: Any, warmup: bool, **named: Any) -> Any:
        found.append((self.__name__, launch(self, *given, grid=grid, warmup=True, **named)))

    JITFunction.run = run
    return found


def variants() -> dict[str, int]:
    """Of each kernel, over steps of all kinds: whatever their numbers of tokens, sequences, blocks
    and layers, and the ranks of their adapters.
    """
    from triton.runtime.jit import JITFunction

    from trimtab.engine.ops.cuda.cuda_ops import CudaOps

    counted: Counter[str] = Counter()

    def build(self: Any, key: Any, *more: Any) -> object:
        counted[self.__name__] += 1
        kernels = self.device_caches[0][0]
        kernels[key] = object()
        return kernels[key]

    built_on(90)
    JITFunction._do_compile = build
    sizes = replace(shape(9, 3, 64), hidden=576, intermediate=1536, layers=2)
    ops = CudaOps(sizes, torch.bfloat16, CPU)
    layers = [_layer(sizes) for _ in range(sizes.layers)]
    cache = _on_a_card(sizes, 200)
    source = random.Random(0)
    adapters = [_adapter(sizes, rank) for rank in (1, 3, 4, 8, 16, 24, 40, 64)]
    radians = frequencies(sizes.rope, sizes.head_dim)
    for number in range(30):
        chosen = [None, *adapters[: number // 3]]
        parts = []
        for _ in range(source.choice((1, 2, 3, 15, 16, 17))):
            held, count = source.randrange(400), source.choice((1, 1, 1, 2, 7, 16, 33))
            blocks = [0] * -(-(held + count) // BLOCK)
            parts.append(Part([1] * count, held, blocks, 1, source.choice(chosen)))
        batch = lay_out(parts, radians, CPU)
        x = torch.zeros(len(batch.tokens), sizes.hidden, dtype=torch.bfloat16)
        with torch.inference_mode():
            ops.through(x, layers, sizes, batch, cache)
    return dict(counted)


def _layer(sizes: Shape) -> Layer:
    def linear(outputs: int, inputs: int) -> Any:
        return plain(torch.zeros(outputs, inputs, dtype=torch.bfloat16))

    norm = torch.ones(sizes.hidden, dtype=torch.bfloat16)
    return Layer(
        linear(sizes.qkv_width, sizes.hidden),
        linear(sizes.hidden, sizes.q_width),
        linear(2 * sizes.intermediate, sizes.hidden),
        linear(sizes.hidden, sizes.intermediate),
        norm,
        norm,
        None,
        None,
    )


def _on_a_card(sizes: Shape, blocks: int) -> Cache:
    """Laid out as there; see Cache."""
    cache = Cache(sizes, blocks, torch.bfloat16, CPU)
    cache.keys = torch.empty_like(cache.values).transpose(3, 4)
    return cache


def _adapter(sizes: Shape, rank: int) -> Adapter:
    q, k = sizes.q_width, sizes.kv_width
    places = {
        "qkv": (sizes.hidden, ((0, q), (q, k), (q + k, k))),
        "o": (q, ((0, sizes.hidden),)),
        "gate_up": (sizes.hidden, ((0, sizes.intermediate), (sizes.intermediate,) * 2)),
        "down": (sizes.intermediate, ((0, sizes.hidden),)),
    }

    def zeros(*size: int) -> torch.Tensor:
        return torch.zeros(size, dtype=torch.bfloat16)

    pairs: dict[tuple[int, str], Any] = {}
    for layer in range(sizes.layers):
        for group, (inputs, columns) in places.items():
            ups = [Up(zeros(rank, wide), i * rank, at) for i, (at, wide) in enumerate(columns)]
            pairs[layer, group] = Pair(zeros(rank * len(ups), inputs), tuple(ups))
    return Adapter(pairs)


def shared(capability: int) -> dict[str, int]:
    """Of the largest tiles that are built for the heads and numbers that the card computes in."""
    from trimtab.engine.ops.cuda import adapters, attention
    from trimtab.engine.ops.cuda.cuda_ops import takes
    from trimtab.engine.ops.cuda.tiles import ROWS, Tiles

    found = built_on(capability)
    told: dict[str, int] = {}
    dtype = torch.bfloat16 if capability >= 80 else torch.float32
    x = torch.zeros(64, 256, dtype=dtype)
    for head_dim in (64, 128, 256):
        sizes = replace(shape(8, 2, head_dim), layers=1)
        if not takes(sizes, dtype):
            continue
        halves = torch.empty(1, 4, 2, BLOCK, head_dim, dtype=dtype)
        cache: Any = SimpleNamespace(shape=sizes, keys=halves.transpose(3, 4), values=halves)
        qkv = torch.empty(64, sizes.qkv_width, dtype=dtype)
        tiles = Tiles(torch.zeros(4, 4, dtype=torch.int32), ROWS[1])
        table = torch.zeros(2, 4, dtype=torch.int32)
        attention.attend(qkv, torch.empty(64, sizes.q_width, dtype=dtype), tiles, table, 0, cache)
        told[f"attend {head_dim}"] = found.pop()[1].metadata.shared
    adapters.adapt(x.clone(), x, Tiles(torch.zeros(4, 3, dtype=torch.int64), ROWS[1]), 0, (0,), 64)
    told |= {name: kernel.metadata.shared for name, kernel in found}
    return told


if __name__ == "__main__":
    asked = sys.argv[1]
    print(json.dumps(variants() if asked == "variants" else shared(int(asked[3:]))))
