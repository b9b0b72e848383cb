"""What a step's matrix products alone would take: each at its own shape, in this process."""

import time
from collections import Counter
from collections.abc import Iterator
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks.train.material import Material
from trimtab.train.rows import Answers
from trimtab.train.stream.loss import label_logprobs, parts
from trimtab.train.stream.stream import IGNORED

PRODUCTS = {"aten::mm": (0, 1), "aten::addmm_": (1, 2), "aten::addmm": (1, 2), "aten::bmm": (0, 1)}
TRIES = 3


class Shapes(TorchDispatchMode):
    """Counts the products that would pass, by shapes and strides, and computes none of them: a
    shape does not depend on what is in a matrix.
    """

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[tuple[Any, ...]] = Counter()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        name = func._schema.name
        if name not in PRODUCTS:
            return func(*args, **(kwargs or {}))
        one, other = (args[i] for i in PRODUCTS[name])
        self.counts[tuple((tuple(x.shape), x.stride()) for x in (one, other))] += 1
        if name == "aten::addmm_":
            return args[0]
        into = (kwargs or {}).get("out")
        return one.new_zeros(*one.shape[:-1], other.shape[-1]) if into is None else into


def share(model: Any, found: Material, seconds: float) -> float:
    """The time of the products of one pass over the records, over the seconds of the run.

    Of pairs also those of the reference's pass, which is the adapter's model without it.
    """
    model.train()
    paired = found.settings.objective == "dpo"
    with Shapes() as shapes:
        for tokens, labels in _batches(found):
            with torch.no_grad(), model.disable_adapter() if paired else nullcontext():
                if paired:
                    label_logprobs(model, tokens, labels)
            label_logprobs(model, tokens, labels).sum().backward()  # type: ignore[no-untyped-call]
    return sum(count * _time(shape) for shape, count in shapes.counts.items()) / seconds


def _batches(found: Material) -> Iterator[tuple[Tensor, Tensor]]:
    """Tokens and labels, [rows, longest], as the trainer computes them: pairs batch by batch,
    other rows in parts of about a thousand tokens.
    """
    rows = found.rows(found.taught)
    texts, starts = [], []
    for row in rows:
        for answer in row.completions if isinstance(row, Answers) else (row.completion,):
            texts.append([*row.prompt, *answer])
            starts.append(len(row.prompt))
    size = 2 * found.settings.batch_size
    pairs = [list(range(at, min(at + size, len(texts)))) for at in range(0, len(texts), size)]
    for part in pairs if found.settings.objective == "dpo" else parts(texts):
        longest = max(len(texts[i]) for i in part)
        tokens = torch.zeros(len(part), longest, dtype=torch.long)
        labels = torch.full_like(tokens, IGNORED)
        for line, i in enumerate(part):
            end = len(texts[i])
            tokens[line, :end] = torch.tensor(texts[i])
            labels[line, starts[i] : end] = tokens[line, starts[i] : end]
        yield tokens, labels


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


def _like(shape: tuple[int, ...], stride: tuple[int, ...]) -> Tensor:
    needed = 1 + sum((size - 1) * step for size, step in zip(shape, stride, strict=True))
    return torch.randn(needed).as_strided(shape, stride)
