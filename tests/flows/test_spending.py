"""What a step that fails has spent is in the ledger: as far as it came, and once."""

from collections.abc import Iterator
from contextlib import closing
from decimal import Decimal
from pathlib import Path

import pytest
import yaml

from tests.tiny import build_base
from tests.tiny_project import write_project
from trimtab.errors import EngineUnavailable, RunFailed, StoreError
from trimtab.flows import loop, spending
from trimtab.flows.journal import StepJournal
from trimtab.flows.loop import run
from trimtab.flows.steps import Step
from trimtab.flows.watch import Silent
from trimtab.flows.work import Outputs, Result, Work
from trimtab.ledger.money import Price, nano
from trimtab.ledger.own import spent
from trimtab.ledger.prices import set_price
from trimtab.project import Project
from trimtab.store.home import Home
from trimtab.train.limits import Limits
from trimtab.train.run import RunFolder

USD_HOUR = 3600.0
TRAIN = {"epochs": 1, "batch_size": 8, "usd_hour": USD_HOUR}


def noted(home: Home) -> dict[str, int]:
    with closing(home.database()) as database, database.read() as connection:
        return dict(spent(connection, "tiny"))


def cost_nano(home: Home) -> int:
    """What the training's one run has used, by its own folder."""
    [folder] = home.runs.iterdir()
    return nano(Decimal(str(Limits(usd_hour=USD_HOUR).usd(RunFolder(folder).used_s))))


@pytest.fixture(scope="module")
def broken(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A project whose training fails at its first step: its base computes no numbers."""
    folder = tmp_path_factory.mktemp("broken")
    file = write_project(folder, 40, train=TRAIN)
    build_base(folder / "base", spread=1e20)
    return Project.load(file)


def test_a_training_that_fails_is_paid_as_far_as_it_came_and_once(broken: Project) -> None:
    home = Home(broken.root / ".trimtab")
    costs = [0]
    for _ in range(2):
        with pytest.raises(RunFailed, match="step 1: "):
            run(broken, home, until="train")
        costs.append(cost_nano(home))
        # One line for all attempts.
        assert noted(home) == {"training": costs[-1]}
    assert 0 < costs[1] < costs[2]


def test_what_the_ledger_could_not_take_is_paid_with_the_next_attempt(
    broken: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = Home(broken.root / "elsewhere")

    def full(*_: object) -> None:
        raise StoreError("the device is full")

    with monkeypatch.context() as patched:
        patched.setattr(spending, "bill_training", full)
        with pytest.raises(RunFailed, match="step 1: "):
            run(broken, home, until="train")
    assert noted(home) == {}
    unpaid = cost_nano(home)
    with pytest.raises(RunFailed, match="step 1: "):
        run(broken, home, until="train")
    assert noted(home) == {"training": cost_nano(home)}
    assert cost_nano(home) > unpaid > 0


@pytest.fixture
def work(tmp_path: Path) -> Iterator[Work]:
    home = Home(tmp_path / "home")
    (tmp_path / "trimtab.yaml").write_text(
        yaml.safe_dump({"name": "tiny", "base": "base", "data": {"sources": [{"path": "x.jsonl"}]}})
    )
    with closing(home.database()) as database:
        yield Work(Project.load(tmp_path / "trimtab.yaml"), home, database, Silent())


def test_a_step_that_fails_pays_what_it_asked_each_time(work: Work) -> None:
    fails = [True, True, False]

    def asks(work: Work, outputs: Outputs) -> Result:
        work.meter.add("v" * 64, prompt=10, completion=5)
        if fails.pop(0):
            raise EngineUnavailable("the engine is gone")
        return Result({}, "asked")

    step = Step("evaluate", lambda work, outputs: {}, asks)
    journal = StepJournal(work.database, "tiny")
    with work.database.transaction() as connection:
        set_price(connection, "v" * 64, Price(3, 7))
    for times in (1, 2, 3, 3):
        try:
            loop._step(work, journal, step, {})
        except EngineUnavailable:
            assert times < 3
        with work.database.read() as connection:
            # Done, it is not done again.
            assert spent(connection, "tiny") == {"evaluate": times * 65}
