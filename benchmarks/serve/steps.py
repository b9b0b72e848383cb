"""What one step of the engine takes, without HTTP and scheduling: where its time goes.

    python -m benchmarks.serve.steps [--base FOLDER | --shape NAME] [--torch]

On the device of the machine; `--shape` takes random weights in the shape of a known base,
`--torch` plain torch instead of our kernels.

Prints milliseconds a step, the best of several: what else runs here only adds. Nothing is written:
NOTES.md keeps what was learned from it.
"""

import argparse
import time
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import torch

from benchmarks.serve import shapes
from trimtab.engine.continuous.batch import Part, lay_out
from trimtab.engine.continuous.blocks import BLOCK
from trimtab.engine.continuous.cache import Cache
from trimtab.engine.dtype import pick_device, pick_dtype
from trimtab.engine.llama.family import Shape, read_shape
from trimtab.engine.llama.lora import Adapter
from trimtab.engine.llama.network import Llama
from trimtab.engine.llama.pages import Pages
from trimtab.engine.llama.pair import AnyPair, Pair, Up
from trimtab.engine.llama.rope import frequencies
from trimtab.engine.llama.weights import PARTS, load_weights, widths
from trimtab.engine.ops import TorchOps, pick_ops

HISTORY = 208
PROMPT = 180


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--base", type=Path)
    parser.add_argument("--shape", choices=shapes.SHAPES)
    parser.add_argument("--torch", action="store_true")
    parser.add_argument("--repeat", type=int, default=15)
    arguments = parser.parse_args()
    device = pick_device()
    dtype = pick_dtype(device)
    with ExitStack() as stack:
        base = shapes.chosen(arguments.base, arguments.shape, stack)
        shape = read_shape(base)
        assert shape is not None
        began = time.perf_counter()
        ops = TorchOps(dtype, device) if arguments.torch else pick_ops(shape, dtype, device)
        weights = load_weights(base, shape, dtype, device, ops.arrange)
    print(f"{arguments.shape or base.name}, {ops.name}, load {time.perf_counter() - began:.2f} s")
    measure(Llama(shape, weights, ops), device, dtype, arguments.repeat)


def measure(model: Llama, device: torch.device, dtype: torch.dtype, repeat: int) -> None:
    shape, ops = model.shape, model.ops
    cache = Cache(shape, 40 * (HISTORY // BLOCK + 2), dtype, device)
    cache.keys.normal_()
    cache.values.normal_()
    radians = frequencies(shape.rope, shape.head_dim).to(device)

    def step(parts: list[Part]) -> None:
        model.forward(lay_out(parts, radians, device), cache)
        ops.wait()

    adapters = [random_adapter(shape, ops, seed) for seed in range(8)]
    for rows in (1, 4, 16, 32):
        for mixed in (False, True):
            parts = [
                Part([7], HISTORY, blocks(i), 1, adapters[i % 8] if mixed else None)
                for i in range(rows)
            ]
            parts.sort(key=lambda part: id(part.adapter))
            ms = step_ms(partial(step, parts), repeat)
            told = "8 adapters" if mixed else "base"
            print(
                f"decode {rows:3} {told:10} {ms:8.1f} ms {rows / ms * 1000:8.1f} tok/s", flush=True
            )
    for mixed in (False, True):
        part = Part(list(range(PROMPT)), 0, blocks(0), 1, adapters[0] if mixed else None)
        ms = step_ms(partial(step, [part]), repeat)
        told = "an adapter" if mixed else "base"
        print(f"prompt {PROMPT} {told:10} {ms:8.1f} ms {PROMPT / ms * 1000:8.1f} tok/s", flush=True)


def blocks(row: int) -> list[int]:
    width = HISTORY // BLOCK + 2
    return list(range(row * width, (row + 1) * width))


def step_ms(step: Callable[[], object], repeat: int) -> float:
    with torch.inference_mode():
        step()
        taken = []
        for _ in range(repeat):
            began = time.perf_counter()
            step()
            taken.append(time.perf_counter() - began)
    return min(taken) * 1000


def random_adapter(shape: Shape, ops: TorchOps, seed: int, rank: int = 16) -> Adapter:
    """On all seven projections, as the engine holds one."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*size: int) -> torch.Tensor:
        return torch.randn(size, generator=generator) * 0.01

    pairs: dict[tuple[int, str], AnyPair] = {}
    pages = Pages()
    for layer in range(shape.layers):
        for group, names in PARTS.items():
            inputs = widths(shape)[names[0]][1]
            ups, column = [], 0
            for number, name in enumerate(names):
                outputs = widths(shape)[name][0]
                ups.append(Up(normal(rank, outputs), number * rank, column))
                column += outputs
            pair = Pair(normal(rank * len(names), inputs), tuple(ups))
            pairs[layer, group] = ops.pair(pair, pages)
    return Adapter(pairs)


if __name__ == "__main__":
    main()
