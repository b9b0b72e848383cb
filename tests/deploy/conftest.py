from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.deploy.world import World, build_world, engine_in
from tests.tiny import build_base
from trimtab.inference import Engine


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    import torch

    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_base(tmp_path_factory.mktemp("base") / "tiny")


@pytest.fixture(scope="session")
def world(base: Path, tmp_path_factory: pytest.TempPathFactory) -> World:
    return build_world(base, tmp_path_factory.mktemp("run"))


@pytest.fixture
def engine(base: Path) -> Iterator[Engine]:
    """The real one, in this process."""
    with engine_in(base, "float32") as engine:
        yield engine
