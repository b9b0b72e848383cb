"""Sweeps: what is drawn, who goes on, what a kill costs, and that no budget is passed."""

import itertools
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.tiny_project import write_project
from trimtab.errors import ProjectError, UserError
from trimtab.flows import sweep as sweeping
from trimtab.flows.settings import HELD_OUT, settings_of
from trimtab.flows.sweep import choices, rungs, sweep
from trimtab.flows.sweep_page import adopted, rows, write_page
from trimtab.flows.trials import Swept
from trimtab.flows.watch import Silent
from trimtab.ledger.money import usd
from trimtab.ledger.own import spent
from trimtab.project import Project, with_fields
from trimtab.train.run import RunResult
from trimtab.train.watch import watch as watching

TRAIN = {"epochs": 1, "batch_size": 4, "usd_hour": 3.6}


def write(folder: Path, **section: object) -> Path:
    folder.mkdir(exist_ok=True)
    rates = {"over": {"train.learning_rate": [0.0001, 0.02, 0.9]}, "trials": 3, **section}
    return write_project(folder, 90, train=TRAIN, sweep=rates)


class Heard(Silent):
    """Remembers which trials trained, to which step."""

    def __init__(self) -> None:
        self.steps: list[tuple[str, int]] = []

    def advanced(self, what: str, done: float, total: float | None, note: str = "") -> None:
        if what.startswith("trial"):
            self.steps.append((what, int(done)))


def billed(swept: Swept) -> float:
    """What the ledger says that training has cost, in dollars."""
    with closing(swept.home.database()) as database, database.read() as connection:
        return usd(spent(connection, "tiny")["training"])


@pytest.fixture(scope="module")
def _steady() -> Iterator[None]:
    """A clock that every look moves on, so that a step takes the same on any machine."""
    ticks = itertools.count()
    with pytest.MonkeyPatch.context() as patch:
        clock = SimpleNamespace(monotonic=lambda: float(next(ticks)))
        patch.setattr(watching, "time", clock)
        yield


@pytest.fixture(scope="module")
def swept(_steady: None, tmp_path_factory: pytest.TempPathFactory) -> Swept:
    return sweep(Project.load(write(tmp_path_factory.mktemp("sweep"))))


def test_the_rungs_halve_by_eta() -> None:
    assert rungs(9, 3) == [(9, 1 / 9), (3, 1 / 3), (1, 1.0)]
    assert rungs(4, 2) == [(4, 0.25), (2, 0.5), (1, 1.0)]
    assert rungs(2, 3) == [(2, 1.0)]


def test_combinations_are_drawn_by_the_seed() -> None:
    over = {"train.rank": [1, 2, 3, 4], "train.alpha": [8.0, 16.0]}
    assert len(choices(over, 100, 1)) == 8
    drawn = choices(over, 3, 1)
    assert drawn == choices(over, 3, 1) != choices(over, 3, 2)
    assert all(each in choices(over, 100, 1) for each in drawn)


def test_the_lowest_held_out_loss_is_trained_to_its_end(swept: Swept) -> None:
    assert swept.best is not None
    assert swept.best.fields == {"train.learning_rate": 0.02}
    assert swept.best.step == swept.best.steps
    assert swept.whole
    first = [trial.looks[0] for trial in swept.trials]
    assert swept.best.looks[0][1] == min(loss for _, loss in first)
    assert [trial.verdict for trial in swept.trials].count("left") == 2
    assert swept.usd == pytest.approx(swept.seconds / 1000)
    assert billed(swept) == pytest.approx(swept.usd, abs=1e-8)


def test_done_again_nothing_is_trained_again(swept: Swept) -> None:
    heard = Heard()
    again = sweep(swept.project, swept.home, watch=heard)
    assert again.trials == swept.trials
    assert heard.steps == []
    assert billed(again) == pytest.approx(swept.usd, abs=1e-8)


def test_the_winner_is_what_its_settings_alone_would_train(swept: Swept) -> None:
    """The same run without the sweep's pauses, from its beginning, in another folder."""
    from trimtab.flows.lessons import lessons_of
    from trimtab.flows.loop import run
    from trimtab.flows.work import Work
    from trimtab.train.start import train

    assert swept.best is not None
    outputs = run(swept.project, swept.home, until="plan").outputs
    database = swept.home.database()
    work = Work(with_fields(swept.project, swept.best.fields), swept.home, database, Silent())
    settings = replace(settings_of(work.project), validation=HELD_OUT)
    lessons = lessons_of(work.dataset(outputs).train)
    alone = train(work.base.folder, work.chat, lessons, settings, swept.home.root / "alone")
    database.close()
    one, other = (
        path / "adapter" / "adapter_model.safetensors"
        for path in (swept.home.runs / swept.best.run, alone.folder)
    )
    assert one.read_bytes() == other.read_bytes()
    assert alone.held_out == swept.best.held_out


def test_a_trial_of_packed_rows_has_the_steps_that_it_trains(tmp_path: Path) -> None:
    """Four tickets or so make a row: as many steps as rows fill, and not as records would."""
    over = {"over": {"train.rank": [2, 4]}, "trials": 2}
    train = {**TRAIN, "packing": True, "max_length": 400}
    packed = sweep(Project.load(write_project(tmp_path, 90, train=train, sweep=over)))
    assert packed.whole
    for trial in packed.trials:
        result = RunResult.load(packed.home.runs / trial.run)
        assert result is not None
        assert trial.step == trial.steps == result.planned_steps == result.steps < 90 / 4 / 2


def test_killed_it_goes_on_and_ends_the_same(swept: Swept, tmp_path: Path) -> None:
    file = write(tmp_path / "killed")
    died = subprocess.run(
        [sys.executable, "-m", "tests.flows.test_sweep", str(file), "2"], timeout=300, check=False
    )
    assert died.returncode == -signal.SIGKILL
    heard = Heard()
    again = sweep(Project.load(file), watch=heard)
    assert [trial.looks for trial in again.trials] == [trial.looks for trial in swept.trials]
    assert {what for what, _ in heard.steps}.isdisjoint({"trial 1 of 3 to step 5"})


def test_a_budget_is_never_passed_and_more_of_it_goes_on(swept: Swept, tmp_path: Path) -> None:
    for share in (0.35, 0.9):
        budget = share * swept.usd
        poor = sweep(Project.load(write(tmp_path / f"{share}", budget_usd=budget)))
        assert not poor.whole
        assert 0.5 * budget < poor.usd <= budget
        assert billed(poor) == pytest.approx(poor.usd, abs=1e-8)
        assert "best" in {trial.verdict for trial in poor.trials}
    rich = sweep(Project.load(write(tmp_path / "0.9", budget_usd=1000)), poor.home)
    assert rich.whole
    # What the poor one has trained is paid once.
    assert billed(rich) == pytest.approx(rich.usd, abs=1e-8)
    assert [trial.looks for trial in rich.trials] == [trial.looks for trial in swept.trials]


def test_steps_dearer_than_forecast_pass_a_budget_by_one_of_them_at_most(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every look at the clock takes longer than the one before, and so do steps and checkpoints: no
    forecast from what was is enough. The bound is a step with the checkpoint behind it.
    """
    ticks, prices = itertools.count(1), []
    now = itertools.accumulate(1 + 0.01 * tick for tick in ticks)
    monkeypatch.setattr(watching, "time", SimpleNamespace(monotonic=lambda: next(now)))

    class Priced(Silent):
        def advanced(self, what: str, done: float, total: float | None, note: str = "") -> None:
            prices.append(next(now))

    for budget in (0.012, 0.1):
        prices.clear()
        project = Project.load(write(tmp_path / f"{budget}", budget_usd=budget))
        swept = sweep(project, watch=Priced())
        assert not swept.whole
        behind = next(now) - prices[-1]
        dearest = (max(b - a for a, b in itertools.pairwise(prices)) + behind) / 1000
        assert swept.usd <= budget + dearest


def test_a_trial_that_runs_away_loses_and_costs_nobody_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = write(tmp_path / "wild")
    real = sweeping.train_until

    def fails(base: Path, *given: object, **more: object) -> object:
        if given[2].learning_rate == 0.02:  # type: ignore[attr-defined]
            raise sweeping.RunFailed("step 3: loss is nan on training records [1]")
        return real(base, *given, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(sweeping, "train_until", fails)
    found = sweep(Project.load(file))
    assert [trial.verdict for trial in found.trials].count("failed") == 1
    assert found.best is not None
    assert found.best.fields != {"train.learning_rate": 0.02}
    assert any("loss is nan on training records [1]" in cells[-1] for cells in rows(found))


def test_the_table_and_the_page_tell_who_won(swept: Swept) -> None:
    [first, *_] = rows(swept)
    assert first[1] == "learning_rate 0.02"
    assert first[-1] == "best"
    assert swept.best is not None
    assert adopted(swept.best) == "train:\n  learning_rate: 0.02\n"
    page = write_page(swept).read_text()
    assert page.count('<tr class="left">') == 2
    assert "learning_rate: 0.02" in page
    assert "<svg" in page


def test_what_has_no_held_out_loss_is_refused(tmp_path: Path) -> None:
    file = write_project(
        tmp_path, 20, train={"objective": "grpo"}, sweep={"over": {"train.rank": [1, 2]}}
    )
    with pytest.raises(ProjectError, match="grpo learns from its own answers"):
        sweep(Project.load(file))
    with pytest.raises(ProjectError, match="declares no sweep"):
        sweep(Project.load(write_project(tmp_path, 20)))


def test_a_method_that_nobody_would_serve_is_not_tried(tmp_path: Path) -> None:
    file = write_project(
        tmp_path,
        90,
        train=TRAIN,
        sweep={"over": {"train.method": ["lora", "ia3"]}, "trials": 2},
        serve={"vllm_url": "http://host", "price": {"prompt": 1, "completion": 1}},
    )
    heard = Heard()
    with pytest.raises(UserError, match=r"train\.method ia3.*vLLM serves"):
        sweep(Project.load(file), watch=heard)
    assert heard.steps == []


class Killer(Silent):
    """Kills the process in the trial of a number."""

    def __init__(self, trial: str) -> None:
        self._trial = f"trial {trial} of"

    def advanced(self, what: str, done: float, total: float | None, note: str = "") -> None:
        if what.startswith(self._trial) and done >= 3:
            os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    import torch

    torch.set_num_threads(1)
    sweep(Project.load(Path(sys.argv[1])), watch=Killer(sys.argv[2]))
