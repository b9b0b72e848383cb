"""Writing to a disk that may be full or lose power: what is visible is whole.

A file is written under a temporary name, synced, and renamed; then its folder is synced.
"""

import errno
import hashlib
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from trimtab.errors import StorageFull

# EFBIG is how a file-size limit of the shell or of the service manager shows itself.
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
# With fewer bytes than these nothing that we write gets through.
_LEAST = 1 << 17


@contextmanager
def storing(place: Path) -> Iterator[None]:
    """Raise StorageFull, naming `place`, where the operating system says there is no room."""
    try:
        yield
    except OSError as error:
        if error.errno not in _FULL:
            raise
        raise no_room(place, os.strerror(error.errno)) from error


def no_room(place: Path, cause: str) -> StorageFull:
    return StorageFull(
        f"{place}: {cause}",
        hint="free some space on that disk, then do the same again; nothing was half-written",
    )


def is_full(place: Path) -> bool:
    """Whether the disk of a place has no room, for where a library says only that it failed."""
    there = next(path for path in (place, *place.absolute().parents) if path.exists())
    return shutil.disk_usage(there).free < _LEAST


def sync_folder(folder: Path) -> None:
    """Make the names in a folder survive a loss of power."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def temporary_name(path: Path) -> Path:
    """A name beside `path` that nobody else takes."""
    return path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")


def write_whole(path: Path, data: bytes) -> None:
    """Replace the content of a file, at once and durably. Raises StorageFull."""
    temporary = temporary_name(path)
    try:
        with storing(path):
            temporary.write_bytes(data)
            keep_whole(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def keep_whole(temporary: Path, path: Path) -> None:
    """Give a file that was written whole its name, durably."""
    with temporary.open("rb") as file:
        os.fsync(file.fileno())
    temporary.replace(path)
    sync_folder(path.parent)


def hash_of_file(path: Path) -> str:
    """SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
