"""A loop that is killed everywhere ends in the state of one that never was, with nothing twice."""

import random
from collections.abc import Iterator
from contextlib import closing
from decimal import Decimal
from pathlib import Path

import pytest

from tests.crash.killing import Attempt, Kill, SharedEngine, attempt, preload
from tests.crash.state import state_of
from tests.tiny_project import TRAIN, write_project
from trimtab.flows.steps import STEPS
from trimtab.ledger.money import nano
from trimtab.ledger.own import spent
from trimtab.store.home import Home

STEP_NAMES = [step.name for step in STEPS]


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, Attempt]]:
    """A project whose loop ran to its end without a kill."""
    preload()
    folder = tmp_path_factory.mktemp("reference")
    file = write_project(folder)
    with SharedEngine(folder):
        yield folder, attempt(file)


def test_killed_at_every_boundary_and_inside_every_step(
    reference: tuple[Path, Attempt], tmp_path: Path
) -> None:
    folder, whole = reference
    assert not whole.killed
    chance = random.Random(5)
    file = write_project(tmp_path)
    with SharedEngine(tmp_path):
        for step in STEP_NAMES:
            inside = chance.random() * whole.seconds[step]
            assert attempt(file, Kill(step, after_s=inside)).killed
            assert attempt(file, Kill(step)).killed
        ended = attempt(file)
    assert ended.outputs["register"] == whole.outputs["register"]
    assert ended.outputs["promote"] == whole.outputs["promote"]
    assert state_of(tmp_path / ".trimtab") == state_of(folder / ".trimtab")


def test_killed_in_the_middle_of_training_goes_on_to_the_same_adapter(
    reference: tuple[Path, Attempt], tmp_path: Path
) -> None:
    _, whole = reference
    file = write_project(tmp_path, train={**TRAIN, "usd_hour": 3600})
    with SharedEngine(tmp_path):
        for part in (0.4, 0.8):
            attempt(file, Kill("train", after_s=part * whole.seconds["train"]))
        ended = attempt(file)
    assert ended.outputs["train"]["adapter"] == whole.outputs["train"]["adapter"]
    with closing(Home(tmp_path / ".trimtab").database()) as database, database.read() as connection:
        paid = spent(connection, "tiny")["training"]
    assert paid == nano(Decimal(str(ended.outputs["train"]["usd"]))) > 0


def test_killed_during_promotion_the_deployment_is_whole(
    reference: tuple[Path, Attempt], tmp_path: Path
) -> None:
    folder, whole = reference
    file = write_project(tmp_path)
    chance = random.Random(7)
    with SharedEngine(tmp_path):
        attempt(file, Kill("shadow"))
        for _ in range(2):
            attempt(file, Kill("promote", after_s=chance.random() * whole.seconds["promote"]))
            [row] = state_of(tmp_path / ".trimtab")["deployments"]
            assert row[-1] in (2, 3)
        attempt(file)
    assert state_of(tmp_path / ".trimtab") == state_of(folder / ".trimtab")
