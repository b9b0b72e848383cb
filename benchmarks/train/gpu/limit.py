"""What a step's matrix products alone take on this card: each at its own shape, timed by itself.

Attention's products are inside its kernels and not counted, so the share is of a time that is
rather too short.
"""

from collections import Counter
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from trimtab.train.room import part_size
from trimtab.train.rows import Row
from trimtab.train.stream.loss import label_logprobs, parts
from trimtab.train.stream.stream import IGNORED
from trimtab.train.stream.walk import bare

PRODUCTS = {"aten::mm": (0, 1), "aten::addmm_": (1, 2), "aten::addmm": (1, 2), "aten::bmm": (0, 1)}
TRIES = 5


class Shapes(TorchDispatchMode):
    """Counts the products that pass, by shapes, strides and width."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[tuple[Any, ...]] = Counter()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func._schema.name in PRODUCTS:
            one, other = (args[i] for i in PRODUCTS[func._schema.name])
            self.counts[tuple((tuple(x.shape), x.stride(), x.dtype) for x in (one, other))] += 1
        return func(*args, **(kwargs or {}))


def products(model: Any, rows: list[Row]) -> float:
    """Seconds of the products of a step over these rows, forward and back."""
    model.train()
    texts = [list(row.prompt + row.completion) for row in rows]
    with Shapes() as shapes:
        for part in parts(texts, part_size(bare(model))):
            tokens = torch.zeros(len(part), max(len(texts[i]) for i in part), dtype=torch.long)
            labels = torch.full_like(tokens, IGNORED)
            for line, i in enumerate(part):
                start, end = len(rows[i].prompt), len(texts[i])
                tokens[line, :end] = torch.tensor(texts[i])
                labels[line, start:end] = tokens[line, start:end]
            label_logprobs(model, tokens, labels).sum().backward()  # type: ignore[no-untyped-call]
    model.zero_grad()
    return sum(count * _time(shape) for shape, count in shapes.counts.items())


def _time(shapes: tuple[Any, ...]) -> float:
    """Seconds of one product, on random numbers, over a few in a row."""
    one, other = (_like(*shape) for shape in shapes)
    product = torch.bmm if one.dim() == 3 else torch.mm
    product(one, other)
    started, ended = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    started.record()
    for _ in range(TRIES):
        product(one, other)
    ended.record()
    torch.cuda.synchronize()
    return float(started.elapsed_time(ended)) / 1000 / TRIES


def _like(shape: tuple[int, ...], stride: tuple[int, ...], width: torch.dtype) -> Tensor:
    needed = 1 + sum((size - 1) * step for size, step in zip(shape, stride, strict=True))
    return torch.randn(needed, dtype=width, device="cuda").as_strided(shape, stride)
