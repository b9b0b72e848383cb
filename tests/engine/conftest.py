"""A tiny base, two adapters of it, and the versions that stand on them."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from tests.engine import interpreter
from tests.tiny import build_adapter, build_base
from trimtab.inference import VersionFiles

# The models are so small that a second thread costs more than it brings.
torch.set_num_threads(1)

VersionOf = Callable[[str], VersionFiles]


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_base(tmp_path_factory.mktemp("engine") / "base", layers=3)


@pytest.fixture(scope="session")
def adapters(tmp_path_factory: pytest.TempPathFactory, base: Path) -> dict[str, Path]:
    """Of unequal rank, and strong enough to change what the base says."""
    folder = tmp_path_factory.mktemp("adapters")
    return {
        "red": build_adapter(folder / "red", base, seed=1, rank=4),
        "blue": build_adapter(folder / "blue", base, seed=2, rank=7, alpha=21),
    }


@pytest.fixture(scope="session")
def version_of(base: Path, adapters: dict[str, Path]) -> VersionOf:
    """The files of the version "base", "red" or "blue"; "red+merged" folds the adapter in."""

    def files(name: str) -> VersionFiles:
        adapter = adapters.get(name.removesuffix("+merged"))
        return VersionFiles(name, base, adapter, base, (2,), merged=name.endswith("+merged"))

    return files


@pytest.fixture
def interpreted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Kernels of a GPU run: on one where there is one, else by Triton's interpreter."""
    if not torch.cuda.is_available():
        interpreter.mend(monkeypatch)
