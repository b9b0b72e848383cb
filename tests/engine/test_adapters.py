"""More adapters than fit into memory: those that come back from disk are what was checked."""

from pathlib import Path

import pytest

from tests.engine.paths import ask, make_path, score
from tests.engine.reference import Reference
from tests.tiny import build_adapter
from trimtab.engine import adapters
from trimtab.engine.continuous import ContinuousPath
from trimtab.errors import EngineError, IdentityError
from trimtab.inference import Sampling, VersionFiles

PROMPT, END = (17, 40, 5, 99), (7, 8, 9, 10)
HOT = 3


@pytest.fixture
def path(base: Path, monkeypatch: pytest.MonkeyPatch) -> ContinuousPath:
    monkeypatch.setattr(adapters, "HOT", HOT)
    path = make_path(base, "native")
    assert isinstance(path, ContinuousPath)
    return path


@pytest.fixture
def folders(tmp_path: Path, base: Path) -> dict[str, Path]:
    return {
        f"v{i}": build_adapter(tmp_path / f"v{i}", base, seed=80 + i, rank=1 + i)
        for i in range(2 * HOT)
    }


def load(path: ContinuousPath, base: Path, folders: dict[str, Path]) -> None:
    for name, folder in folders.items():
        path.load(VersionFiles(name, base, folder, base, (2,)))


def test_all_answer_as_themselves_though_few_are_in_memory(
    path: ContinuousPath, base: Path, folders: dict[str, Path]
) -> None:
    load(path, base, folders)
    assert len(path._adapters._hot) == HOT
    for name, folder in [*folders.items(), *reversed(folders.items())]:
        [found] = score(path, name, [(PROMPT, END)])
        expected = Reference(base, folder).score(PROMPT, END)
        assert found.logprobs == pytest.approx(expected, abs=1e-4)
    assert len(path._adapters._hot) == HOT


def test_one_that_changed_on_disk_fails_its_own_request_alone(
    path: ContinuousPath, base: Path, folders: dict[str, Path]
) -> None:
    load(path, base, folders)
    build_adapter(folders["v0"], base, seed=999, rank=1)
    with pytest.raises(IdentityError, match="v0"):
        ask(path, "v0", [PROMPT], Sampling(max_tokens=2))
    [answer] = ask(path, "v1", [PROMPT], Sampling(max_tokens=2))
    assert len(answer.tokens) == 2


def test_one_whose_files_are_gone_fails_its_own_request_alone(
    path: ContinuousPath, base: Path, folders: dict[str, Path]
) -> None:
    load(path, base, folders)
    (folders["v0"] / "adapter_model.safetensors").unlink()
    with pytest.raises(IdentityError, match="v0"):
        ask(path, "v0", [PROMPT], Sampling(max_tokens=2))
    [answer] = ask(path, "v2", [PROMPT], Sampling(max_tokens=2))
    assert len(answer.tokens) == 2


def test_one_that_finds_no_memory_fails_its_own_request_alone(
    path: ContinuousPath, base: Path, folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    load(path, base, folders)

    def exhausted(*_: object) -> None:
        raise RuntimeError("not enough memory: you tried to allocate 12 bytes")

    with monkeypatch.context() as machine:
        machine.setattr(adapters, "load_adapter", exhausted)
        with pytest.raises(EngineError, match="not enough memory"):
            ask(path, "v0", [PROMPT], Sampling(max_tokens=2))
    [answer] = ask(path, "v0", [PROMPT], Sampling(max_tokens=2))
    assert len(answer.tokens) == 2
