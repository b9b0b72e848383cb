"""Checkpoints are whole or do not count.

TRL writes the files; this module seals them with a marker written last, finds the newest sealed
one, keeps two, and turns a full device into an error that says where the run stands.
"""

import errno
import json
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from trimtab.errors import StorageFull
from trimtab.train.run import sync_folder, write_json

KEPT = 2
MARKER = "complete.json"
_NAME = re.compile(r"checkpoint-(\d+)")
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A sealed checkpoint; `seconds` of training lie behind it."""

    path: Path
    step: int
    seconds: float


def newest(folder: Path) -> Checkpoint | None:
    """The newest sealed checkpoint."""
    found = _sealed(folder)
    return found[-1] if found else None


def clear_unsealed(folder: Path) -> None:
    """Delete what a killed process left half-written."""
    for path in _all(folder):
        if not (path / MARKER).is_file():
            shutil.rmtree(path)


def seal(path: Path, *, step: int, seconds: float) -> None:
    """Sync every file, then write the marker; older checkpoints than the kept ones go."""
    for file in sorted(path.rglob("*")):
        if file.is_file():
            with file.open("rb") as handle:
                os.fsync(handle.fileno())
    sync_folder(path)
    write_json(path / MARKER, {"step": step, "seconds": seconds})
    sync_folder(path.parent)
    for old in _sealed(path.parent)[:-KEPT]:
        # The marker goes first, so that a folder half deleted can never count.
        (old.path / MARKER).unlink()
        shutil.rmtree(old.path)


@contextmanager
def room_needed(folder: Path) -> Iterator[None]:
    """Turn a full device, quota or file limit met while saving into StorageFull.

    `folder` holds the run's checkpoints.
    """
    try:
        yield
    except Exception as error:
        if not _is_full(error):
            raise
        last = newest(folder)
        stands = f"; step {last.step} is safe" if last else ""
        raise StorageFull(
            f"{folder.parent}: the device is full{stands}",
            hint="free some room and run again: the run goes on from its last checkpoint",
        ) from error


def _is_full(error: BaseException) -> bool:
    # torch and safetensors wrap the system's error in types and words of their own.
    if isinstance(error, OSError) and error.errno in _FULL:
        return True
    words = str(error)
    number = re.search(r"os error (\d+)", words)
    torch = "PytorchStreamWriter" in words or "inline_container" in words
    return torch or (number is not None and int(number[1]) in _FULL)


def _all(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return [path for path in folder.iterdir() if _NAME.fullmatch(path.name)]


def _sealed(folder: Path) -> list[Checkpoint]:
    found = []
    for path in _all(folder):
        if (path / MARKER).is_file():
            written = json.loads((path / MARKER).read_bytes())
            found.append(Checkpoint(path, written["step"], written["seconds"]))
    return sorted(found, key=lambda checkpoint: checkpoint.step)
