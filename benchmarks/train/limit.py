"""What a step's matrix products alone would take: each at its own shape, in this process."""

import time
from collections import Counter
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks.train.material import Material
from trimtab.train.loss import label_logprobs, parts
from trimtab.train.stream import IGNORED

PRODUCTS = {"aten::mm": (0, 1), "aten::addmm_": (1, 2), "aten::addmm": (1, 2), "aten::bmm": (0, 1)}
TRIES = 3


class Shapes(TorchDispatchMode):
    """Counts the products that pass, by shapes and strides."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[tuple[Any, ...]] = Counter()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        name = func._schema.name
        if name in PRODUCTS:
            pair = [args[i] for i in PRODUCTS[name]]
            self.counts[tuple((tuple(x.shape), x.stride()) for x in pair)] += 1
        return func(*args, **(kwargs or {}))


def share(model: Any, found: Material, seconds: float) -> float:
    """The time of the products of one pass over the records, over the seconds of the run."""
    rows = found.rows(found.taught)
    texts = [list(row.prompt + row.completion) for row in rows]
    model.train()
    with Shapes() as shapes:
        for part in parts(texts):
            longest = max(len(texts[i]) for i in part)
            tokens = torch.zeros(len(part), longest, dtype=torch.long)
            labels = torch.full_like(tokens, IGNORED)
            for line, i in enumerate(part):
                end, start = len(texts[i]), len(rows[i].prompt)
                tokens[line, :end] = torch.tensor(texts[i])
                labels[line, start:end] = tokens[line, start:end]
            label_logprobs(model, tokens, labels).sum().backward()  # type: ignore[no-untyped-call]
    return sum(count * _time(shape) for shape, count in shapes.counts.items()) / seconds


def _time(shapes: tuple[Any, ...]) -> float:
    """Seconds of one product, the best of a few."""
    one, other = (_like(*shape) for shape in shapes)
    product = torch.bmm if one.dim() == 3 else torch.mm
    best = float("inf")
    for _ in range(TRIES):
        started = time.perf_counter()
        product(one, other)
        best = min(best, time.perf_counter() - started)
    return best


def _like(shape: tuple[int, ...], stride: tuple[int, ...]) -> torch.Tensor:
    needed = 1 + sum((size - 1) * step for size, step in zip(shape, stride, strict=True))
    return torch.randn(needed).as_strided(shape, stride)
