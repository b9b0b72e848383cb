"""Paths driven by hand: jobs in, steps until nothing is left, and what came out."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch

from trimtab.engine.continuous.batch import Batch
from trimtab.engine.continuous.cache import Cache
from trimtab.engine.continuous.path import ContinuousPath
from trimtab.engine.general.path import GeneralPath
from trimtab.engine.general.static import StaticPath
from trimtab.engine.jobs import GenerateJob, Mailbox, ScoreJob
from trimtab.engine.llama.family import read_shape
from trimtab.engine.ops import TorchOps
from trimtab.inference import (
    Chunk,
    Completion,
    GenerateRequest,
    Sampling,
    Score,
    ScoreRequest,
    VersionFiles,
)

AnyPath = ContinuousPath | StaticPath
CUDA = torch.cuda.is_available() and find_spec("triton") is not None
KINDS = ("native", "torch", "static") + (("cuda", "torch@cuda", "static@cuda") if CUDA else ())
FAST = "cuda" if CUDA else "native"
"""What an engine computes with on this machine, where it can."""


class Kept(Mailbox):
    """Keeps what a job is told; belongs to no event loop."""

    def __init__(self) -> None:
        self.items: list[Any] = []

    def put(self, item: Any) -> None:
        self.items.append(item)


def make_path(base: Path, kind: str) -> AnyPath:
    """In float32 whatever the machine does natively, to compare to the fourth decimal."""
    kind, _, where = kind.partition("@")
    device = torch.device("cuda" if kind == "cuda" else where or "cpu")
    shape = read_shape(base)
    if shape is None or kind == "static":
        return StaticPath(GeneralPath(base, torch.float32, device))
    ops = TorchOps(torch.float32, device) if kind == "torch" else None
    path = ContinuousPath(base, shape, torch.float32, device, ops)
    assert path.ops.name == kind
    return path


def load(path: AnyPath, files: VersionFiles) -> None:
    """Make a path answer with a version."""
    if isinstance(path, StaticPath):
        path.hold(path.prepare(files))
    else:
        path.load(files)


def run(path: AnyPath) -> None:
    while path.busy:
        path.step()


def ask(
    path: AnyPath, version: str, asked: Sequence[tuple[int, ...]], sampling: Sampling
) -> list[Completion]:
    """All prompts at the same time."""
    jobs = [
        GenerateJob(GenerateRequest(version, prompt, sampling, str(i)), Kept())
        for i, prompt in enumerate(asked)
    ]
    for job in jobs:
        path.add(job)
    run(path)
    return [answer(job) for job in jobs]


def score(
    path: AnyPath, version: str, rows: Sequence[tuple[tuple[int, ...], tuple[int, ...]]]
) -> list[Score]:
    """The score of each (prompt, completion), all asked for at the same time."""
    jobs = [
        ScoreJob(ScoreRequest(version, prompt, (completion,), str(i)), Kept())
        for i, (prompt, completion) in enumerate(rows)
    ]
    for job in jobs:
        path.add(job)
    run(path)
    return [scores(job)[0] for job in jobs]


def items(job: GenerateJob | ScoreJob) -> list[Any]:
    assert isinstance(job.mailbox, Kept)
    return job.mailbox.items


def scores(job: ScoreJob) -> list[Score]:
    [told] = items(job)
    if isinstance(told, Exception):
        raise told
    return list(told)


def answer(job: GenerateJob) -> Completion:
    stream = items(job)
    if isinstance(stream[-1], Exception):
        raise stream[-1]
    return gathered(stream)


def gathered(stream: Sequence[Chunk]) -> Completion:
    last = stream[-1]
    assert last.finish_reason is not None
    assert last.usage is not None
    assert all(c.finish_reason is None and c.usage is None for c in stream[:-1])
    return Completion(
        "".join(c.text for c in stream),
        tuple(t for c in stream for t in c.tokens),
        tuple(x for c in stream for x in c.logprobs),
        last.finish_reason,
        last.usage,
        tuple(top for c in stream for top in c.top),
    )


class Engine:
    """The paths of one base as an engine chooses among them; of kind "static" the general one."""

    def __init__(self, base: Path, kind: str) -> None:
        self._base = base
        self._paths = [make_path(base, kind)]
        self._held: dict[str, AnyPath] = {}

    def load(self, files: VersionFiles) -> None:
        path = self._paths[0]
        if isinstance(path, ContinuousPath) and not path.takes(files):
            self._paths.append(make_path(self._base, "static"))
            path = self._paths[-1]
        load(path, files)
        self._held[files.version] = path

    def unload(self, version: str) -> None:
        self._held.pop(version).unload(version)

    def score(
        self, version: str, prompt: tuple[int, ...], end: tuple[int, ...]
    ) -> tuple[float, ...]:
        return score(self._held[version], version, [(prompt, end)])[0].logprobs


@contextmanager
def counting(path: ContinuousPath) -> Iterator[list[int]]:
    """How many tokens each step computes."""
    forward, steps = path.model.forward, []

    def counted(batch: Batch, cache: Cache) -> torch.Tensor:
        steps.append(len(batch.tokens))
        return forward(batch, cache)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(path.model, "forward", counted)
        yield steps
