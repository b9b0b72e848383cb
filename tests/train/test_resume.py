"""A run that is killed, told to end, or runs out of room ends where an unbroken one ends, byte for
byte; one that hangs is ended, and says where.
"""

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.disks import disk_of
from tests.train.conftest import Records
from tests.train.killed import MORE, SHORT, WAYS, trained
from trimtab.errors import StorageFull, UserError
from trimtab.text.chat import ChatFormat
from trimtab.train.checkpoint import newest
from trimtab.train.run import Paused, RunFolder, RunResult, StepProgress
from trimtab.train.start import train, train_until
from trimtab.train.watch.limits import Pause

KILLED = WAYS | MORE if os.environ.get("TRIMTAB_EVERY_PAIR") else WAYS


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def ended(base: Path, folders: Path) -> dict[str, dict[str, Any]]:
    """How every scenario ended, by its name; each way of learning is killed at its third step."""
    scenarios: dict[str, dict[str, Any]] = {
        way: {"way": way, "at": 3, "how": "killed"} for way in KILLED
    }
    for how in ("told", "hangs", "loops"):
        scenarios[how] = {"way": "sft", "at": 3, "how": how}
    scenarios["room"] = {"way": "sft", "at": 3, "how": "killed"}
    for name, scenario in scenarios.items():
        scenario |= {"base": str(base), "folder": str(folders / name)}
    again = {"way": "sft", "base": str(base), "folder": str(folders / "room"), "room": 8000}
    done = subprocess.run(
        [sys.executable, "-m", "tests.train.killed"],
        input=json.dumps([*scenarios.values(), again]),
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return dict(zip([*scenarios, "no room"], json.loads(done.stdout), strict=True))


@pytest.fixture(scope="module")
def unbroken(base: Path, folders: Path) -> dict[str, RunResult]:
    """Each way of learning without an accident, when it is first asked for."""

    class Runs(dict[str, RunResult]):
        def __missing__(self, way: str) -> RunResult:
            result = trained(way, base, folders / f"unbroken {way}")
            assert isinstance(result, RunResult)
            return self.setdefault(way, result)

    return Runs()


def results(folder: Path) -> list[bytes]:
    """The weights first, then all else that a run leaves and that does not tell the time."""
    files = RunFolder(folder)
    whole = files.adapter if files.adapter.is_dir() else files.model
    left = sorted(whole.iterdir(), key=lambda path: path.suffix != ".safetensors")
    # A reward model answers nothing, and has no probes.
    probes = [files.probes] if files.probes.is_file() else []
    return [path.read_bytes() for path in (*left, files.curve, *probes)]


@pytest.mark.parametrize("way", KILLED)
def test_killed_between_saves_it_ends_in_the_same_bytes(
    way: str, ended: dict[str, Any], unbroken: dict[str, RunResult], base: Path, folders: Path
) -> None:
    assert ended[way]["code"] == -9, ended[way]["said"]
    last = newest(RunFolder(folders / way).checkpoints)
    assert last is not None
    assert last.step == 2
    used = RunFolder(folders / way).used_s
    assert used > last.seconds
    torn = RunFolder(folders / way).checkpoints / "checkpoint-3"
    torn.mkdir()
    (torn / "adapter_model.safetensors").write_bytes(b"half a fi")
    seen: list[int] = []
    result = trained(way, base, folders / way, lambda step: seen.append(step.step))
    assert seen == [3, 4]
    # The third step was done twice, and is paid for twice.
    assert result.seconds > used
    assert results(folders / way) == results(unbroken[way].folder)
    assert not RunFolder(folders / way).checkpoints.exists()


def test_the_same_run_twice_is_the_same_to_the_byte(
    unbroken: dict[str, RunResult], base: Path, tmp_path: Path
) -> None:
    again = trained("sft", base, tmp_path)
    assert isinstance(again, RunResult)
    assert again.identity == unbroken["sft"].identity
    assert results(again.folder) == results(unbroken["sft"].folder)


def test_another_seed_is_another_adapter(
    unbroken: dict[str, RunResult], base: Path, chat: ChatFormat, records: Records, tmp_path: Path
) -> None:
    other = train(base, chat, records, dataclasses.replace(WAYS["sft"], seed=18), tmp_path)
    assert results(other.folder)[0] != results(unbroken["sft"].folder)[0]


def test_told_to_end_it_saves_at_once_and_goes_on(
    ended: dict[str, Any], unbroken: dict[str, RunResult], base: Path, folders: Path
) -> None:
    assert ended["told"]["code"] == 0
    assert "trimtab.errors.Preempted" in ended["told"]["said"]
    assert "told to end; step 3 of 4 is saved" in ended["told"]["said"]
    seen: list[int] = []
    trained("sft", base, folders / "told", lambda step: seen.append(step.step))
    assert seen == [4]
    assert results(folders / "told") == results(unbroken["sft"].folder)


def test_without_room_the_last_checkpoint_stands_and_the_run_goes_on(
    ended: dict[str, Any], unbroken: dict[str, RunResult], base: Path, folders: Path
) -> None:
    assert "the disk is full; step 2 is safe" in ended["no room"]["said"]
    trained("sft", base, folders / "room")
    assert results(folders / "room") == results(unbroken["sft"].folder)


@pytest.mark.parametrize(("size", "safe"), [(40, 0), (320, 2)])
def test_a_disk_that_fills_costs_no_step_that_was_saved(
    size: int, safe: int, unbroken: dict[str, RunResult], base: Path, tmp_path: Path
) -> None:
    """Before the first checkpoint, and in the middle of the second."""
    with disk_of(tmp_path / "disk", size * 1024) as disk:
        with pytest.raises(StorageFull, match="the disk is full") as caught:
            trained("sft", base, disk / "run")
        told = caught.value.message
        # What failed holds the file that it could not write, and no disk goes with an open file.
        del caught
        last = newest(RunFolder(disk / "run").checkpoints)
        assert (last.step if last else 0) == safe
        assert ("step 2 is safe" in told) == bool(safe)
        subprocess.run(["mount", "-o", "remount,size=8m", str(disk)], check=True)
        trained("sft", base, disk / "run")
        assert results(disk / "run") == results(unbroken["sft"].folder)


@pytest.mark.parametrize(("how", "code"), [("loops", 0), ("hangs", 1)])
def test_a_step_that_never_ends_ends_the_run_and_names_its_records(
    how: str, code: int, ended: dict[str, Any], folders: Path
) -> None:
    assert ended[how]["code"] == code
    assert "step 4 on training records [" in ended[how]["said"]
    assert "no end for 0." in ended[how]["said"]
    assert "_end" in (folders / how / "stalled.txt").read_text()
    last = newest(RunFolder(folders / how).checkpoints)
    assert last is not None
    assert last.step == 2


def test_paused_and_gone_on_with_it_ends_in_the_same_bytes(
    unbroken: dict[str, RunResult], base: Path, chat: ChatFormat, records: Records, tmp_path: Path
) -> None:
    seen: list[StepProgress] = []
    settings = WAYS["held out"]
    for step in (1, 3, 3):
        paused = train_until(
            base, chat, records, settings, tmp_path, pause=Pause(step), on_step=seen.append
        )
        assert isinstance(paused, Paused)
        assert paused.step == step
        assert paused.held_out is not None
    done = train_until(base, chat, records, settings, tmp_path, on_step=seen.append)
    assert isinstance(done, RunResult)
    assert [progress.step for progress in seen] == [1, 2, 3, 4]
    # More looks at what is held out stand in the curve; the weights do not know of them.
    assert results(tmp_path)[:2] == results(unbroken["held out"].folder)[:2]


def test_killed_after_its_last_step_only_the_end_is_made_again(
    unbroken: dict[str, RunResult], base: Path, tmp_path: Path
) -> None:
    # A folder in the place of the curve stops the run after its last checkpoint.
    RunFolder(tmp_path).curve.mkdir(parents=True)
    with pytest.raises(OSError, match="directory"):
        trained("sft", base, tmp_path)
    RunFolder(tmp_path).curve.rmdir()
    seen: list[StepProgress] = []
    trained("sft", base, tmp_path, seen.append)
    assert seen == []
    assert results(tmp_path) == results(unbroken["sft"].folder)


def test_ended_by_its_deadline_and_killed_it_takes_no_further_step(
    base: Path, chat: ChatFormat, records: Records, tmp_path: Path
) -> None:
    hurried = dataclasses.replace(SHORT, deadline_s=1e-6)
    RunFolder(tmp_path).curve.mkdir(parents=True)
    with pytest.raises(OSError, match="directory"):
        train(base, chat, records, hurried, tmp_path)
    RunFolder(tmp_path).curve.rmdir()
    seen: list[StepProgress] = []
    result = train(base, chat, records, hurried, tmp_path, on_step=seen.append)
    assert (seen, result.steps, result.stopped) == ([], 1, "deadline")


def test_a_run_of_another_library_or_other_settings_is_refused_by_name(
    base: Path, chat: ChatFormat, records: Records, tmp_path: Path
) -> None:
    train_until(base, chat, records, SHORT, tmp_path, pause=Pause(2))
    file = tmp_path / "settings.json"
    asked = json.loads(file.read_bytes())
    older = asked | {"identity": "0" * 64, "libraries": asked["libraries"] | {"trl": "0.9"}}
    file.write_text(json.dumps(older))
    with pytest.raises(UserError, match=r"holds run 0000.*: trl was 0\.9 and is \d"):
        train(base, chat, records, SHORT, tmp_path)
    file.write_text(json.dumps(asked))
    with pytest.raises(UserError, match="rank was 4 and is 8"):
        train(base, chat, records, dataclasses.replace(SHORT, rank=8), tmp_path)
    with pytest.raises(UserError, match="other examples"):
        train(base, chat, records[1:], SHORT, tmp_path)
    last = newest(RunFolder(tmp_path).checkpoints)
    assert last is not None
    marker = last.path / "complete.json"
    marker.write_text(json.dumps(json.loads(marker.read_bytes()) | {"identity": "1" * 64}))
    with pytest.raises(UserError, match="checkpoint-2: is of run 1111"):
        train(base, chat, records, SHORT, tmp_path)
    assert last.path.is_dir()


def test_a_file_that_a_loss_of_power_emptied_stops_no_run(tmp_path: Path) -> None:
    files = RunFolder(tmp_path)
    assert files.used_s == 0
    files.use(2.5)
    assert files.used_s == 2.5
    for left in (b"", bytes(17)):
        (tmp_path / "used.json").write_bytes(left)
        assert files.used_s == 0
