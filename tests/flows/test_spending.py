"""What a step that fails has spent is in the ledger: as far as it came, and once."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from decimal import Decimal
from pathlib import Path

import pytest
import yaml

from tests.tiny import build_base
from tests.tiny_project import write_project
from trimtab.errors import EngineUnavailable, RunFailed, StoreError
from trimtab.flows import bills, loop
from trimtab.flows.bills import settle_left
from trimtab.flows.controller import Controller
from trimtab.flows.journal import StepJournal
from trimtab.flows.loop import run
from trimtab.flows.slips import Slip
from trimtab.flows.spending import billed_as_far
from trimtab.flows.steps import Step
from trimtab.flows.watch import Silent
from trimtab.flows.work import Outputs, Result, Work
from trimtab.ledger.money import Price, nano
from trimtab.ledger.own import spent
from trimtab.ledger.prices import set_price
from trimtab.project import Project
from trimtab.store.database import Database
from trimtab.store.home import Home
from trimtab.train.run import RunFolder
from trimtab.train.watch.limits import Limits

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
        patched.setattr(bills, "bill_training", full)
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
    (tmp_path / "trimtab.yaml").write_text(
        yaml.safe_dump({"name": "tiny", "base": "base", "data": {"sources": [{"path": "x.jsonl"}]}})
    )
    with closing(Home(tmp_path / "home").database()) as database:
        with database.transaction() as connection:
            set_price(connection, "v" * 64, Price(3, 7))
        yield work_in(tmp_path, database)


def work_in(folder: Path, database: Database) -> Work:
    return Work(Project.load(folder / "trimtab.yaml"), Home(folder / "home"), database, Silent())


def asking(then: Callable[[], Result]) -> Step:
    """A step that asks a version once, for 65 nano-dollars, and ends as it is told."""

    def asks(work: Work, outputs: Outputs) -> Result:
        work.meter.add("v" * 64, prompt=10, completion=5)
        return then()

    return Step("evaluate", lambda work, outputs: {}, asks)


def gone() -> Result:
    raise EngineUnavailable("the engine is gone")


def spent_by(work: Work) -> dict[str, int]:
    with work.database.read() as connection:
        return dict(spent(connection, "tiny"))


def test_a_step_that_fails_pays_what_it_asked_each_time(work: Work) -> None:
    fails = [True, True, False]
    step = asking(lambda: gone() if fails.pop(0) else Result({}, "asked"))
    journal = StepJournal(work.database, "tiny")
    for times in (1, 2, 3, 3):
        try:
            loop._step(work, journal, step, {})
        except EngineUnavailable:
            assert times < 3
        # Done, it is not done again.
        assert spent_by(work) == {"evaluate": times * 65}
    assert settle_left(work.home, work.database) == 0


def test_what_the_ledger_could_not_take_of_a_step_is_paid_later_and_once(
    work: Work, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = StepJournal(work.database, "tiny")

    def full(*_: object) -> None:
        raise StoreError("the device is full")

    done = asking(lambda: Result({}, "asked"))
    with monkeypatch.context() as patched:
        patched.setattr(bills, "bill_asked", full)
        with pytest.raises(EngineUnavailable):
            loop._step(work, journal, asking(gone), {})
        # Neither is it done, if what it cost cannot be written.
        with pytest.raises(StoreError, match="full"):
            loop._step(work, journal, done, {})
        with pytest.raises(StoreError, match="full"):
            settle_left(work.home, work.database)
    assert spent_by(work) == {}
    assert settle_left(work.home, work.database) == 2
    assert settle_left(work.home, work.database) == 0
    assert spent_by(work) == {"evaluate": 2 * 65}
    loop._step(work, journal, done, {})
    assert spent_by(work) == {"evaluate": 3 * 65}


def test_a_slip_that_is_booked_and_still_there_is_paid_once(
    work: Work, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after a kill between the commit and the end of the slip."""
    with monkeypatch.context() as patched:
        patched.setattr(Slip, "drop", lambda slip: None)
        loop._step(
            work, StepJournal(work.database, "tiny"), asking(lambda: Result({}, "asked")), {}
        )
    assert settle_left(work.home, work.database) == 1
    assert spent_by(work) == {"evaluate": 65}


@pytest.mark.parametrize("head", [b"", b"\0" * 80, b'{"project":"ti', b"{}\n", b"[1]\n"])
def test_a_slip_that_is_damaged_stops_no_other(work: Work, head: bytes) -> None:
    (work.home.unpaid / "0.jsonl").write_bytes(head)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Slip, "drop", lambda slip: None)
        loop._step(
            work, StepJournal(work.database, "tiny"), asking(lambda: Result({}, "asked")), {}
        )
    assert settle_left(work.home, work.database) == 1
    assert spent_by(work) == {"evaluate": 65}


@pytest.mark.parametrize(
    "line",
    [
        b"\0" * 80,
        b"7",
        b'{"run":"r"}',
        b'{"version":"v","used":[1]}',
        b'{"run":"r","usd_hour":NaN}',
        b'{"run":"r","usd_hour":1' + b"0" * 400 + b"}",
    ],
)
def test_a_line_of_a_slip_that_is_damaged_costs_no_other(work: Work, line: bytes) -> None:
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Slip, "drop", lambda slip: None)
        done = asking(lambda: Result({}, "asked"))
        loop._step(work, StepJournal(work.database, "tiny"), done, {})
    (file,) = work.home.unpaid.iterdir()
    head, *lines = file.read_bytes().split(b"\n")
    file.write_bytes(b"\n".join([head, line, *lines]))
    assert settle_left(work.home, work.database) == 1
    assert spent_by(work) == {"evaluate": 65}


def test_nobody_books_what_is_under_way(work: Work) -> None:
    def meanwhile() -> Result:
        assert settle_left(work.home, work.database) == 0
        return Result({}, "asked")

    loop._step(work, StepJournal(work.database, "tiny"), asking(meanwhile), {})
    assert spent_by(work) == {"evaluate": 65}


def test_what_was_killed_and_never_started_again_is_paid(work: Work) -> None:
    """A step, and a training inside it; by the server."""
    command = [sys.executable, "-m", "tests.flows.test_spending", str(work.project.root)]
    killed = subprocess.run(command, timeout=120)
    assert killed.returncode == -signal.SIGKILL
    assert spent_by(work) == {}
    # The last line was cut off.
    for file in work.home.unpaid.iterdir():
        file.write_bytes(file.read_bytes() + b'\n{"version":"vvv')
    assert Controller(work.database, work.home).tick()
    assert spent_by(work) == {"evaluate": 65, "training": int(2.5e9)}
    assert settle_left(work.home, work.database) == 0


def _work_until_killed(folder: Path) -> None:
    work = work_in(folder, Home(folder / "home").database())

    def kill() -> Result:
        files = RunFolder(work.home.runs / "r")
        files.path.mkdir()
        with billed_as_far(work, "r", Limits(usd_hour=USD_HOUR)):
            files.use(2.5)
            os.kill(os.getpid(), signal.SIGKILL)
        raise AssertionError

    loop._step(work, StepJournal(work.database, "tiny"), asking(kill), {})


if __name__ == "__main__":
    _work_until_killed(Path(sys.argv[1]))
