"""Who is refused because the answer would come too late, and who never is."""

import pytest

from tests.engine.paths import Kept
from trimtab.engine.backlog import MARGIN, Backlog
from trimtab.engine.jobs import GenerateJob, Job, ScoreJob
from trimtab.engine.pace import Pace
from trimtab.errors import EngineOverloaded
from trimtab.inference import GenerateRequest, Priority, Sampling, ScoreRequest

MEASURED = Pace(prompt_s=0.01, token_s=0.1, answer=20.0)
# 100 tokens of prompt and 20 of answer.
ONE_S = 1.0 + 2.0


def job(patience_s: float | None = None, priority: Priority = "interactive") -> Job:
    sampling = Sampling(max_tokens=500)
    request = GenerateRequest("v", (5,) * 100, sampling, "1", priority, patience_s)
    return GenerateJob(request, Kept())


def test_one_that_fits_is_taken_and_one_more_is_refused_with_when_to_come_back() -> None:
    backlog = Backlog(MEASURED)
    enough = MARGIN * 3 * ONE_S
    with backlog.holding(job()), backlog.holding(job()):
        with backlog.holding(job(enough + 0.01)):
            pass
        with pytest.raises(EngineOverloaded, match=r"11\.2 s, 7\.0 s are allowed") as caught:
            backlog.holding(job(7.0)).__enter__()
        assert caught.value.retry_s == pytest.approx(enough - 7.0)


def test_who_leaves_makes_room() -> None:
    backlog = Backlog(MEASURED)
    hasty = MARGIN * 2 * ONE_S + 0.01
    with backlog.holding(job()):
        with backlog.holding(job()), pytest.raises(EngineOverloaded):
            backlog.holding(job(hasty)).__enter__()
        with backlog.holding(job(hasty)):
            pass


def test_nobody_is_refused_alone_or_for_what_nobody_measured_or_without_a_limit() -> None:
    with Backlog(MEASURED).holding(job(0.0)):
        pass
    unmeasured = Backlog(Pace())
    with unmeasured.holding(job()), unmeasured.holding(job(0.1)):
        pass
    backlog = Backlog(MEASURED)
    with backlog.holding(job()), backlog.holding(job(None)):
        pass


def test_what_gives_way_does_not_count() -> None:
    backlog = Backlog(MEASURED)
    with backlog.holding(job(priority="batch")), backlog.holding(job(priority="shadow")):
        with backlog.holding(job(0.0)):
            pass
        with pytest.raises(EngineOverloaded):
            backlog.holding(job(0.1, "batch")).__enter__()


def test_a_score_is_read_and_not_written() -> None:
    backlog = Backlog(MEASURED)
    request = ScoreRequest("v", (5,) * 50, ((7,) * 25,) * 2, "1", patience_s=MARGIN * 4.0 + 0.01)
    with backlog.holding(job()), backlog.holding(ScoreJob(request, Kept())):
        pass


def test_the_pace_follows_the_last_steps() -> None:
    pace = Pace()
    assert pace.seconds(1000, 1000) == 0
    for _ in range(40):
        pace.step(90, 10, 0.5)
        pace.step(0, 10, 0.2)
        pace.ended(100, 50, 30)
    assert pace.prompt_s == pytest.approx(0.005)
    assert pace.token_s == pytest.approx(0.02)
    assert pace.seconds(100, 1000) == pytest.approx(50 * 0.005 + 30 * 0.02, rel=1e-3)
    assert pace.seconds(100, 10) == pytest.approx(50 * 0.005 + 10 * 0.02, rel=1e-3)
