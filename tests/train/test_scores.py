"""Ranks ask what their answers are worth, and are told by who has the rewards."""

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.train.conftest import DIALOGUES, small_settings
from trimtab.errors import DataError, TrimtabError
from trimtab.train.launchers.job import Desk, Job
from trimtab.train.launchers.scores import Telling, asking
from trimtab.train.online.rewards import Reward, Rollout, Scorer, over
from trimtab.train.preflight import Preflight


def golds(rollouts: Sequence[Rollout]) -> list[float]:
    """How much longer than its gold an answer is."""
    return [float(len(each.answer) - len(each.gold)) for each in rollouts]


def broken(rollouts: Sequence[Rollout]) -> list[float]:
    raise DataError(f"no number for record {rollouts[0].record}")


SCORERS = [over(Reward(each.__name__, "", each), DIALOGUES) for each in (golds, broken)]


@pytest.fixture
def asked(tmp_path: Path) -> list[Scorer]:
    """A rank's rewards."""
    job = Job.of(Path("base"), small_settings(), Preflight((), ()), SCORERS)
    desk = Desk(tmp_path)
    job.save(desk.job)
    return asking(Job.load(desk.job), desk)


def told(telling: Telling, asked: Sequence[Future[list[float]]]) -> None:
    while not all(each.done() for each in asked):
        telling.tell()


def test_each_rank_is_told_of_its_own_answers(asked: list[Scorer], tmp_path: Path) -> None:
    telling = Telling(Desk(tmp_path), SCORERS)
    assert [scorer.name for scorer in asked] == ["golds", "broken"]
    with ThreadPoolExecutor() as ranks:
        found = [
            ranks.submit(asked[0].score, [at, at + 1], ["x" * at, "yes"]) for at in range(0, 8, 2)
        ]
        told(telling, found)
    for at, each in zip(range(0, 8, 2), found, strict=True):
        golden = [len(DIALOGUES[place].answer) for place in (at, at + 1)]
        assert each.result() == [at - golden[0], 3 - golden[1]]
    assert [*Desk(tmp_path).scores.iterdir()] == []


def test_a_reward_that_fails_ends_the_rank_and_then_the_run(
    asked: list[Scorer], tmp_path: Path
) -> None:
    telling = Telling(Desk(tmp_path), SCORERS)
    with ThreadPoolExecutor() as ranks:
        found = ranks.submit(asked[1].score, [5], ["so"])
        told(telling, [found])
    with pytest.raises(TrimtabError, match="no number for record 5"):
        found.result()
    assert isinstance(telling.failed, DataError)
