"""Content-addressed files and folders: a blob's name is the SHA-256 of its bytes.

Knows nothing of what the bytes mean. What stands under a name is whole: a blob is written under a
temporary name, synced, renamed, and its folder synced. A folder is stored as its files and a
manifest, and the manifest's hash is the artifact's.
"""

import hashlib
import json
import os
import re
import secrets
import shutil
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from filelock import FileLock

from trimtab.canonical import canonical_json, digest
from trimtab.errors import NotFound, StoreError
from trimtab.store.disk import hash_of_file, keep_whole, storing, sync_folder, temporary_name

_HASH = re.compile(r"[0-9a-f]{64}")
_CHUNK = 1 << 20
_STALE_S = 24 * 3600


class Blobs:
    """A folder of blobs. What writes raises StorageFull when there is no room."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def put_bytes(self, data: bytes) -> str:
        """Store bytes; their hash."""
        with self._arriving() as temporary:
            temporary.write_bytes(data)
            return self._keep(temporary, digest(data))

    def put_file(self, source: Path) -> str:
        """Store a copy of a file; its hash."""
        with self._arriving() as temporary:
            return self._keep(temporary, _copy(source, temporary))

    def put_chunks(self, chunks: Iterable[bytes]) -> str:
        """Store what comes in pieces; its hash. What raises on the way leaves nothing behind."""
        with self._arriving() as temporary:
            hasher = hashlib.sha256()
            with temporary.open("xb") as writer:
                for chunk in chunks:
                    hasher.update(chunk)
                    writer.write(chunk)
            return self._keep(temporary, hasher.hexdigest())

    def put_tree(self, folder: Path) -> str:
        """Store every file below a folder; the artifact, which is its manifest's hash.

        Links to files are followed, links to folders are not; names and bytes count, modes and
        times do not.
        """
        manifest = [
            {"path": name, "size": path.stat().st_size, "sha256": self.put_file(path)}
            for name, path in sorted(_files_below(folder).items())
        ]
        return self.put_bytes(canonical_json(manifest))

    def path(self, name: str) -> Path:
        """Where the blob lies or would lie. Raises StoreError if `name` is no hash."""
        if not _HASH.fullmatch(name):
            raise StoreError(f"'{name[:80]}' is not the name of a blob", hint="64 hex characters")
        return self.root / name[:2] / name[2:]

    def read_bytes(self, name: str) -> bytes:
        """A blob, checked against its name. Raises NotFound, and StoreError where it is damaged."""
        path = self.path(name)
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            raise _missing(path) from None
        if digest(data) != name:
            raise _damaged(path)
        return data

    def delete(self, name: str) -> None:
        """Remove a blob that nothing names any more; one that is gone already is no error."""
        self.path(name).unlink(missing_ok=True)

    def older_than(self, seconds: float) -> Iterator[str]:
        """The names of blobs that were last stored longer ago than this."""
        oldest = time.time() - seconds
        for path in self.root.glob("[0-9a-f][0-9a-f]/*"):
            try:
                if path.stat().st_mtime <= oldest:
                    yield path.parent.name + path.name
            except FileNotFoundError:
                continue  # another process was quicker

    def materialise(self, artifact: str, into: Path) -> Path:
        """Make the folder `into` hold exactly the artifact's files, each checked.

        A folder that already does is left alone; another one is replaced. The files are links to
        the blobs where the file system can, so they are read-only and must not be written.
        """
        manifest = self._manifest(artifact)
        with storing(into):
            (self.root / "locks").mkdir(exist_ok=True)
            with FileLock(self.root / "locks" / artifact):
                if not _holds(into, manifest):
                    self._build(manifest, into)
        return into

    def _build(self, manifest: dict[str, str], into: Path) -> None:
        temporary = temporary_name(into)
        try:
            temporary.mkdir(parents=True)
            for name, expected in manifest.items():
                self._place(expected, temporary / name)
            _exchange(temporary, into)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)

    def _manifest(self, artifact: str) -> dict[str, str]:
        """File name -> hash. A name that leaves the folder is refused: any blob may come here."""
        try:
            rows = json.loads(self.read_bytes(artifact))
            entries = {row["path"]: row["sha256"] for row in rows}
            safe = isinstance(rows, list) and all(_is_inside(name) for name in entries)
        except (ValueError, TypeError, KeyError):
            safe = False
        if not safe:
            raise StoreError(f"blob {artifact} is not an artifact", hint="name an artifact's hash")
        return entries

    def _place(self, name: str, target: Path) -> None:
        source = self.path(name)
        target.parent.mkdir(parents=True, exist_ok=True)
        if not source.exists():
            raise _missing(source)
        if hash_of_file(source) != name:
            raise _damaged(source)
        try:
            target.hardlink_to(source)
        except OSError:  # another file system, or one without links
            _copy(source, target)

    @contextmanager
    def _arriving(self) -> Iterator[Path]:
        """A temporary file that is gone afterwards, whatever happens but `kill -9`."""
        folder = self.root / "tmp"
        temporary = folder / secrets.token_hex(16)
        try:
            with storing(self.root):
                folder.mkdir(parents=True, exist_ok=True)
                _discard_stale(folder)
                yield temporary
        finally:
            temporary.unlink(missing_ok=True)

    def _keep(self, temporary: Path, name: str) -> str:
        target = self.path(name)
        if not target.parent.exists():
            target.parent.mkdir(exist_ok=True)
            sync_folder(self.root)
        temporary.chmod(0o444)
        # An older blob of the name is replaced too: should it be damaged, it is whole again.
        keep_whole(temporary, target)
        return name


def _copy(source: Path, target: Path) -> str:
    """Copy bytes; their hash."""
    hasher = hashlib.sha256()
    with source.open("rb") as reader, target.open("xb") as writer:
        while chunk := reader.read(_CHUNK):
            hasher.update(chunk)
            writer.write(chunk)
    return hasher.hexdigest()


def _files_below(folder: Path) -> dict[str, Path]:
    if not folder.is_dir():
        raise StoreError(f"{folder}: no such folder", hint="check the path")
    found = {}
    for parent, _, names in os.walk(folder):
        for name in names:
            path = Path(parent, name)
            if not path.is_file():
                raise StoreError(f"{path}: not a file", hint="an artifact holds files alone")
            found[path.relative_to(folder).as_posix()] = path
    return found


def _holds(folder: Path, manifest: dict[str, str]) -> bool:
    if not folder.is_dir():
        return False
    files = _files_below(folder)
    return files.keys() == manifest.keys() and all(
        hash_of_file(path) == manifest[name] for name, path in files.items()
    )


def _is_inside(name: str) -> bool:
    path = PurePosixPath(name)
    return bool(path.parts) and not path.is_absolute() and ".." not in path.parts


def _exchange(fresh: Path, into: Path) -> None:
    """Put a folder in the place of another; a folder cannot be renamed onto a full one."""
    if into.exists():
        into.rename(fresh.with_name(f"{fresh.name}.old"))
        shutil.rmtree(fresh.with_name(f"{fresh.name}.old"), ignore_errors=True)
    fresh.rename(into)
    sync_folder(into.parent)


def _discard_stale(folder: Path) -> None:
    """Remove what killed processes left behind."""
    oldest = time.time() - _STALE_S
    for path in folder.iterdir():
        try:
            if path.stat().st_mtime < oldest:
                path.unlink()
        except FileNotFoundError:
            continue  # another process was quicker


def _missing(path: Path) -> NotFound:
    return NotFound(f"{path}: no such blob", hint="was the home copied without its blobs?")


def _damaged(path: Path) -> StoreError:
    return StoreError(
        f"{path}: the bytes are not those of its name",
        hint="the disk or somebody changed it: delete it and run again",
    )
