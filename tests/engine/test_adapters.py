"""More adapters than fit into memory: those that come back from disk are what was checked."""

import json
from pathlib import Path
from typing import Any

import pytest
from peft.tuners.lora import LoraLayer

from tests.engine.paths import FAST, Kept, ask, make_path, run, score, scores
from tests.engine.reference import Reference
from tests.tiny import build_adapter, build_base
from trimtab.engine.continuous import adapters
from trimtab.engine.continuous.path import ContinuousPath
from trimtab.engine.jobs import ScoreJob
from trimtab.engine.llama.lora import Adapter
from trimtab.errors import EngineError, IdentityError
from trimtab.inference import Sampling, ScoreRequest, VersionFiles

PROMPT, END = (17, 40, 5, 99), (7, 8, 9, 10)
HOT = 3


@pytest.fixture
def path(base: Path, monkeypatch: pytest.MonkeyPatch) -> ContinuousPath:
    monkeypatch.setattr(adapters, "HOT", HOT)
    path = make_path(base, FAST)
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


def test_one_that_comes_back_too_late_takes_no_other_s_place(
    path: ContinuousPath, base: Path, folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was paged in while its version was unloaded, and another loaded under the same name."""
    load(path, base, folders)
    read = adapters.load_adapter

    def overtaken(*told: Any) -> Adapter:
        found = read(*told)
        monkeypatch.setattr(adapters, "load_adapter", read)
        path.unload("v0")
        load(path, base, {"v0": folders["v1"]})
        return found

    monkeypatch.setattr(adapters, "load_adapter", overtaken)
    assert path.lacks("v0")
    path.page_in("v0")
    [found] = score(path, "v0", [(PROMPT, END)])
    expected = Reference(base, folders["v1"]).score(PROMPT, END)
    assert found.logprobs == pytest.approx(expected, abs=1e-4)


def test_a_thousand_are_registered_and_sixty_four_in_memory(tmp_path: Path) -> None:
    """One file of weights under a thousand scales: each answers by its own, from disk again."""
    base = build_base(tmp_path / "base", layers=1)
    first = build_adapter(tmp_path / "0", base, rank=1, alpha=1)
    config = json.loads((first / "adapter_config.json").read_bytes())
    path = make_path(base, FAST)
    assert isinstance(path, ContinuousPath)
    for alpha in range(1, 1001):
        folder = tmp_path / "adapters" / str(alpha)
        folder.mkdir(parents=True)
        (folder / "adapter_config.json").write_text(
            json.dumps(config | {"lora_alpha": alpha / 100})
        )
        (folder / "adapter_model.safetensors").hardlink_to(first / "adapter_model.safetensors")
        path.load(VersionFiles(str(alpha), base, folder, base, (2,)))
    assert (len(path._adapters._known), len(path._adapters._hot)) == (1000, 64)
    # A real one is ten megabytes.
    assert len({id(version.tokenizer) for version in path._versions.values()}) == 1
    asked = [*range(1, 1001, 37), *range(1000, 900, -7), 1]
    jobs = {
        alpha: ScoreJob(ScoreRequest(str(alpha), PROMPT, (END,), str(alpha)), Kept())
        for alpha in asked
    }
    for job in jobs.values():
        path.add(job)
    run(path)
    reference = Reference(base, first)
    for alpha, job in jobs.items():
        [found] = scores(job)
        assert found.logprobs == pytest.approx(scaled(reference, alpha / 100), abs=1e-3)
    assert len(path._adapters._hot) == 64


def scaled(reference: Reference, alpha: float) -> tuple[float, ...]:
    """What PEFT says with another scale, which at a rank of one is alpha itself."""
    for module in reference._model.modules():
        if isinstance(module, LoraLayer):
            module.scaling["default"] = alpha
    return reference.score(PROMPT, END)
