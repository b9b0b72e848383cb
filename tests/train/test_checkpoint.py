import errno
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.disks import SIZE
from trimtab.errors import StorageFull
from trimtab.train.checkpoint import (
    MARKER,
    Checkpoint,
    clear_unsealed,
    newest,
    room_needed,
    seal,
)
from trimtab.train.run import replace_file, write_bytes


def written(folder: Path, step: int, seconds: float = 1.0) -> Checkpoint:
    path = folder / f"checkpoint-{step}"
    path.mkdir(parents=True)
    (path / "weights").write_bytes(b"w" * step)
    return Checkpoint(path, step, seconds, identity="mine")


def test_an_unsealed_checkpoint_does_not_count(tmp_path: Path) -> None:
    seal(written(tmp_path, 2, 1.5))
    written(tmp_path, 4)
    found = newest(tmp_path)
    assert found is not None
    assert (found.step, found.seconds) == (2, 1.5)


def test_what_is_half_written_goes(tmp_path: Path) -> None:
    seal(written(tmp_path, 2, 1.5))
    written(tmp_path, 4)
    clear_unsealed(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-2"]


def test_two_are_kept_by_step_and_not_by_name(tmp_path: Path) -> None:
    for step in (8, 9, 10, 11):
        seal(written(tmp_path, step))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint-10", "checkpoint-11"]


def test_the_best_one_is_kept_beside_them(tmp_path: Path) -> None:
    for step in (8, 9, 10, 11):
        seal(written(tmp_path, step), keep=8)
    assert {path.name for path in tmp_path.iterdir()} == {f"checkpoint-{n}" for n in (8, 10, 11)}


def test_there_is_none_in_an_empty_or_missing_folder(tmp_path: Path) -> None:
    assert newest(tmp_path) is None
    assert newest(tmp_path / "missing") is None


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        RuntimeError("PytorchStreamWriter failed writing file data/0: file write failed"),
        RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 448 vs 342"),
        ValueError("Error while serializing: I/O error: No space left on device (os error 28)"),
    ],
)
def test_a_full_device_says_what_is_safe(tmp_path: Path, error: Exception) -> None:
    seal(written(tmp_path, 6))
    with pytest.raises(StorageFull, match="step 6 is safe"), room_needed(tmp_path):
        raise error
    assert (tmp_path / "checkpoint-6" / MARKER).is_file()


def test_other_errors_pass(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="denied"), room_needed(tmp_path):
        raise PermissionError(errno.EACCES, "denied")


@pytest.mark.parametrize("write", [write_bytes, replace_file])
def test_a_file_that_a_full_disk_takes_not_leaves_nothing_and_the_one_before(
    tiny_disk: Path, write: Callable[[Path, bytes], None]
) -> None:
    write(tiny_disk / "used.json", b"1")
    with pytest.raises(OSError, match="No space left"):
        write(tiny_disk / "used.json", bytes(2 * SIZE))
    assert [file.name for file in tiny_disk.iterdir()] == ["used.json"]
    assert (tiny_disk / "used.json").read_bytes() == b"1"
