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

from trimtab.canonical import short
from trimtab.errors import StorageFull, UserError
from trimtab.train.run import sync_folder, write_json
from trimtab.train.watch.limits import Ended

KEPT = 2
MARKER = "complete.json"
_MARKED = ("step", "seconds", "identity", "ended")
_NAME = re.compile(r"checkpoint-(\d+)")
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A sealed checkpoint of the run `identity`; `seconds` of training lie behind it. `ended` says
    why no step comes behind it before the last one.
    """

    path: Path
    step: int
    seconds: float
    identity: str
    ended: Ended = ""


def newest(folder: Path) -> Checkpoint | None:
    """The newest sealed checkpoint."""
    found = _sealed(folder)
    return found[-1] if found else None


def newest_of(folder: Path, identity: str) -> Checkpoint | None:
    """The newest sealed checkpoint of a run. Raises UserError where it is another run's."""
    last = newest(folder)
    if last is not None and last.identity != identity:
        raise UserError(
            f"{last.path}: is of run {short(last.identity)}, not {short(identity)}",
            hint="take it out of this folder; the run goes on from the one before it",
        )
    return last


def clear_unsealed(folder: Path) -> None:
    """Delete what a killed process left half-written."""
    for path in _all(folder):
        if not (path / MARKER).is_file():
            shutil.rmtree(path)


def seal(checkpoint: Checkpoint, *, keep: int = 0) -> None:
    """Sync every file, then write the marker; older checkpoints than the kept ones go, but for
    the one of step `keep`.
    """
    path = checkpoint.path
    for file in sorted(path.rglob("*")):
        if file.is_file():
            with file.open("rb") as handle:
                os.fsync(handle.fileno())
    sync_folder(path)
    write_json(path / MARKER, {name: getattr(checkpoint, name) for name in _MARKED})
    sync_folder(path.parent)
    for old in _sealed(path.parent)[:-KEPT]:
        if old.step == keep:
            continue
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
            f"{folder.parent}: the disk is full{stands}",
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
            found.append(Checkpoint(path, **written))
    return sorted(found, key=lambda checkpoint: checkpoint.step)
