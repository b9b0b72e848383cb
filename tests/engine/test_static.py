"""Which jobs are computed together, and which are not computed any more."""

import asyncio
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.engine.conftest import VersionOf
from tests.engine.paths import Kept, items, load, make_path, run, scores
from trimtab.engine.general import path as general
from trimtab.engine.general.decode import score_rows
from trimtab.engine.general.layout import MAX_BATCH, MAX_BATCH_TOKENS
from trimtab.engine.general.overlay import Overlay
from trimtab.engine.general.static import StaticPath, group
from trimtab.engine.jobs import GenerateJob, Job, ScoreJob
from trimtab.errors import EngineOverloaded, EngineUnavailable
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


@pytest.fixture
def pieces(path: StaticPath, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The rows of each piece that was scored."""
    counts: list[int] = []

    def counted(overlay: Overlay, rows: list[Any]) -> list[tuple[float, ...]]:
        counts.append(len(rows))
        return score_rows(overlay, rows)

    monkeypatch.setattr(general, "score_rows", counted)
    return counts


@pytest.fixture(scope="module")
def path(base: Path, version_of: VersionOf) -> StaticPath:
    path = make_path(base, "static")
    assert isinstance(path, StaticPath)
    load(path, version_of("base"))
    return path


def scoring(rows: int) -> ScoreJob:
    return ScoreJob(ScoreRequest("base", (17, 40, 5), ((7, 8),) * rows, "s"), Kept())


def test_scores_come_in_pieces_and_stop_when_nobody_waits(
    path: StaticPath, pieces: list[int]
) -> None:
    whole, left = scoring(MAX_BATCH + 3), scoring(3 * MAX_BATCH)
    path.add(whole)
    path.step()
    assert (pieces, items(whole)) == ([MAX_BATCH], [])
    run(path)
    assert pieces == [MAX_BATCH, 3]
    assert len(scores(whole)) == MAX_BATCH + 3
    path.add(left)
    path.step()
    left.cancelled = True
    run(path)
    assert pieces == [MAX_BATCH, 3, MAX_BATCH]


def test_who_waits_no_more_leaves_the_queue_at_the_next_step(path: StaticPath) -> None:
    computed, cancelled, patient = scoring(2 * MAX_BATCH), scoring(1), scoring(1)
    hasty = ScoreJob(replace(scoring(1).request, patience_s=0.0), Kept())
    path.add(computed)
    path.step()
    for job in (cancelled, hasty, patient):
        path.add(job)
    cancelled.cancelled = True
    path.step()
    assert path.waiting(0) == 1
    with pytest.raises(EngineOverloaded, match="allowed"):
        scores(hasty)
    run(path)
    assert len(scores(patient)) == 1


def test_an_answer_that_waits_when_the_engine_stops_has_its_end(path: StaticPath) -> None:
    """As those have that were begun; nobody waits for ever."""
    jobs = [
        GenerateJob(GenerateRequest("base", (5, 6), Sampling(max_tokens=9), str(i)), Kept())
        for i in range(2)
    ]
    for job in jobs:
        path.add(job)
        path.step()
    path.stop_all(EngineUnavailable("the engine stopped"))
    run(path)
    ends = [items(job)[-1] for job in jobs]
    assert [end.finish_reason for end in ends] == ["cancelled"] * 2
    assert [end.usage.completion for end in ends] == [3, 0]
