"""Golden probes: what the adapter said at the end of training, for the serving engine to repeat.

Train stores them and judges nothing; `deploy.verify` scores the same completions through the engine
and compares. Imports torch only where it computes.
"""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trimtab.train.rows import Row
from trimtab.train.run import write_json

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from trimtab.train.stream.walk import Model

PROMPTS, TOKENS, BATCH = 32, 1000, 8
# Both shapes may be summed in one order, as a stream is, and another engine's is its own: hence a
# floor. A tiny model over a base of 4 bits was seen 0.00013 nat off in float32.
FLOOR = {"float32": 3e-4, "bfloat16": 1e-2}
CAP = {"float32": 1e-3, "bfloat16": 1e-1}


@dataclass(frozen=True, slots=True)
class Probe:
    """One prompt with its completion, as token ids, and the completion's log-probabilities."""

    prompt: tuple[int, ...]
    completion: tuple[int, ...]
    logprobs: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Probes:
    """All probes of a run. `tolerance` is in nats a token; `spread` the difference it came from.

    `narrowed` is what training saw over what is served, in nats a token and on average: not 0 where
    the base lay in 4 bits.
    """

    probes: tuple[Probe, ...]
    dtype: str
    spread: float
    tolerance: float
    narrowed: float = 0.0

    @property
    def tokens(self) -> int:
        return sum(len(probe.completion) for probe in self.probes)

    def save(self, path: Path) -> None:
        items = [[list(p.prompt), list(p.completion), list(p.logprobs)] for p in self.probes]
        fields = {
            "dtype": self.dtype,
            "spread": self.spread,
            "tolerance": self.tolerance,
            "narrowed": self.narrowed,
        }
        write_json(path, {**fields, "probes": items})

    @classmethod
    def load(cls, path: Path) -> "Probes":
        found: dict[str, Any] = json.loads(path.read_bytes())
        probes = tuple(Probe(tuple(p), tuple(c), tuple(s)) for p, c, s in found["probes"])
        return cls(probes, found["dtype"], found["spread"], found["tolerance"], found["narrowed"])


def tolerance(spread: float, dtype: str) -> float:
    """Three times the largest difference between two batch shapes, within the dtype's bounds."""
    return min(CAP[dtype], max(FLOOR[dtype], 3 * spread))


def choose(examples: Sequence[Row]) -> list[Row]:
    """At least 32 prompts and 1,000 completion tokens, evenly over the data; all if it has less."""
    wanted = min(PROMPTS, len(examples))
    while wanted < len(examples):
        if sum(len(example.completion) for example in _spread(examples, wanted)) >= TOKENS:
            break
        wanted += 1
    return _spread(examples, wanted)


def _spread(examples: Sequence[Row], count: int) -> list[Row]:
    return [examples[i * len(examples) // count] for i in range(count)]


def measure(model: "Model", examples: Sequence[Row], dtype: str) -> Probes:
    """Score the chosen examples one by one, and again in padded batches with a shared prefix."""
    chosen = choose(examples)
    with _scoring(model):
        alone = [row for example in chosen for row in _score(model, [example])]
        batched: list[list[float]] = []
        for start in range(0, len(chosen), BATCH):
            batched += _score(model, chosen[start : start + BATCH])
    spread = max(
        abs(a - b)
        for row, other in zip(alone, batched, strict=True)
        for a, b in zip(row, other, strict=True)
    )
    probes = tuple(
        Probe(e.prompt, e.completion, tuple(row)) for e, row in zip(chosen, alone, strict=True)
    )
    return Probes(probes, dtype, spread, tolerance(spread, dtype))


def narrowed(probes: Probes, trained: "Model", examples: Sequence[Row]) -> Probes:
    """The same probes, with how far they are from what the model said that was `trained`."""
    with _scoring(trained):
        rows = [row for example in choose(examples) for row in _score(trained, [example])]
    differences = [
        abs(a - b)
        for probe, row in zip(probes.probes, rows, strict=True)
        for a, b in zip(probe.logprobs, row, strict=True)
    ]
    return replace(probes, narrowed=sum(differences) / len(differences))


def _score(model: "Model", batch: Sequence[Row]) -> list[list[float]]:
    from trimtab.train.stream.loss import label_logprobs

    scored: list[float] = label_logprobs(model, *_pad(batch, model.device)).tolist()
    rows = iter(scored)
    return [[next(rows) for _ in example.completion] for example in batch]


def _pad(batch: Sequence[Row], device: "torch.device") -> "tuple[Tensor, Tensor]":
    """Tokens and labels, [batch, longest], padded on the right."""
    import torch

    whole = [example.prompt + example.completion for example in batch]
    shape = len(batch), max(map(len, whole))
    tokens, labels = torch.zeros(shape, dtype=torch.long), torch.full(shape, -100)
    for row, example in enumerate(batch):
        start, end = len(example.prompt), len(whole[row])
        tokens[row, :end] = torch.tensor(whole[row])
        labels[row, start:end] = tokens[row, start:end]
    return tokens.to(device), labels.to(device)


@contextmanager
def _scoring(model: "Model") -> Iterator[None]:
    import torch

    model.eval()
    with torch.inference_mode():
        yield
    model.train()
