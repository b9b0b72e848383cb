from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.gateway.echo import Echo
from tests.gateway.world import World, app_with, build_world, listening
from tests.tiny import build_tokenizer
from trimtab.gateway.telemetry import refusals


@pytest.fixture(scope="session")
def base_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_tokenizer(tmp_path_factory.mktemp("base"))


@pytest.fixture(autouse=True)
def _refusals_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was refused is written at a gateway's end, so that the log of a test is of what was let
    in. `test_refusals` looks at the rest."""
    monkeypatch.setattr(refusals, "GATHER_S", 60.0)


@pytest.fixture
def world(tmp_path: Path, base_folder: Path) -> Iterator[World]:
    built = build_world(tmp_path, base_folder)
    yield built
    built.database.close()


@pytest.fixture
def echo() -> Echo:
    return Echo()


@pytest.fixture
def client(world: World, echo: Echo) -> Iterator[httpx.Client]:
    """Speaks to a gateway in front of `echo`, with a key."""
    with listening(app_with(world, echo), world.key.key) as speaking:
        yield speaking
