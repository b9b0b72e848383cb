"""A run that is killed, or runs out of room, ends where an unbroken one ends, byte for byte."""

import dataclasses
import subprocess
import sys
from pathlib import Path

import pytest

from tests.train.conftest import Records, small_settings
from trimtab.text.chat import ChatFormat
from trimtab.train.checkpoint import newest
from trimtab.train.run import RunFolder, RunResult, StepProgress
from trimtab.train.start import train


@pytest.fixture(scope="module")
def unbroken(
    base: Path, chat: ChatFormat, records: Records, tmp_path_factory: pytest.TempPathFactory
) -> RunResult:
    folder = tmp_path_factory.mktemp("unbroken")
    return train(base, chat, records, small_settings(), folder)


def in_a_process(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "tests.train.killed", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def results(folder: Path) -> list[bytes]:
    files = RunFolder(folder)
    weights = files.adapter / "adapter_model.safetensors"
    config = files.adapter / "adapter_config.json"
    return [path.read_bytes() for path in (weights, config, files.curve, files.probes)]


def test_the_same_run_twice_is_the_same_to_the_byte(
    unbroken: RunResult, base: Path, chat: ChatFormat, records: Records, tmp_path: Path
) -> None:
    again = train(base, chat, records, small_settings(), tmp_path)
    assert again.identity == unbroken.identity
    assert results(again.folder) == results(unbroken.folder)


def test_another_seed_is_another_adapter(
    unbroken: RunResult, base: Path, chat: ChatFormat, records: Records, tmp_path: Path
) -> None:
    other = train(base, chat, records, dataclasses.replace(small_settings(), seed=18), tmp_path)
    assert results(other.folder)[0] != results(unbroken.folder)[0]


def test_killed_between_saves_it_ends_in_the_same_bytes(
    unbroken: RunResult, base: Path, chat: ChatFormat, records: Records, tmp_path: Path
) -> None:
    died = in_a_process(base, tmp_path, "--at", 5)
    assert died.returncode == -9, died.stderr
    last = newest(RunFolder(tmp_path).checkpoints)
    assert last is not None
    assert last.step == 4
    torn = RunFolder(tmp_path).checkpoints / "checkpoint-5"
    torn.mkdir()
    (torn / "adapter_model.safetensors").write_bytes(b"half a fi")
    seen: list[StepProgress] = []
    train(base, chat, records, small_settings(), tmp_path, on_step=seen.append)
    assert [progress.step for progress in seen] == [5, 6]
    assert results(tmp_path) == results(unbroken.folder)
    assert not RunFolder(tmp_path).checkpoints.exists()


def test_without_room_the_last_checkpoint_stands_and_the_run_goes_on(
    unbroken: RunResult, base: Path, chat: ChatFormat, records: Records, tmp_path: Path
) -> None:
    assert in_a_process(base, tmp_path, "--at", 3).returncode == -9
    full = in_a_process(base, tmp_path, "--room", 8000)
    assert "the device is full; step 2 is safe" in full.stdout, full.stderr
    train(base, chat, records, small_settings(), tmp_path)
    assert results(tmp_path) == results(unbroken.folder)


def test_killed_after_its_last_step_only_the_end_is_made_again(
    unbroken: RunResult, base: Path, chat: ChatFormat, records: Records, tmp_path: Path
) -> None:
    # A folder in the place of the curve stops the run after its last checkpoint.
    RunFolder(tmp_path).curve.mkdir(parents=True)
    with pytest.raises(OSError, match="directory"):
        train(base, chat, records, small_settings(), tmp_path)
    RunFolder(tmp_path).curve.rmdir()
    seen: list[StepProgress] = []
    train(base, chat, records, small_settings(), tmp_path, on_step=seen.append)
    assert seen == []
    assert results(tmp_path) == results(unbroken.folder)
