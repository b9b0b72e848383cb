"""Which jobs are computed together. The jobs are real; only nobody computes them."""

import asyncio
from collections.abc import Callable

import pytest

from trimtab.engine.general import MAX_BATCH, MAX_BATCH_TOKENS
from trimtab.engine.jobs import GenerateJob, Job, ScoreJob
from trimtab.engine.static import group
from trimtab.inference import GenerateRequest, Sampling, ScoreRequest


def generate(version: str = "a", width: int = 10) -> GenerateJob:
    """A job of `width` tokens, the one to come included."""
    sampling = Sampling(max_tokens=1)
    return GenerateJob(GenerateRequest(version, (1,) * (width - 1), sampling, "g"))


def score(version: str = "a", rows: int = 1) -> ScoreJob:
    return ScoreJob(ScoreRequest(version, (1,) * 10, ((2,),) * rows, "s"))


def chosen(make: Callable[[], list[Job]]) -> list[int]:
    """The places of the jobs that are grouped; jobs belong to an event loop."""

    async def within() -> list[int]:
        jobs = make()
        return [jobs.index(job) for job in group(jobs)]

    return asyncio.run(within())


@pytest.mark.parametrize(
    ("make", "places"),
    [
        (list, []),
        (lambda: [generate("a"), generate("b"), score("a"), generate("a")], [0, 3]),
        (lambda: [score("a"), generate("a"), score("a"), score("b")], [0, 2]),
        (lambda: [generate() for _ in range(20)], list(range(MAX_BATCH))),
        (lambda: [score(rows=9), score(rows=9), score(rows=7)], [0, 2]),
        (lambda: [score(rows=50), score(rows=1)], [0]),
        (lambda: [generate(width=MAX_BATCH_TOKENS // 2), generate(), generate()], [0, 1]),
        (lambda: [generate(width=MAX_BATCH_TOKENS + 1), generate()], [0]),
        (lambda: [generate(), generate(width=MAX_BATCH_TOKENS), generate()], [0, 2]),
    ],
)
def test_the_first_job_and_those_that_can_join_it(
    make: Callable[[], list[Job]], places: list[int]
) -> None:
    assert chosen(make) == places
