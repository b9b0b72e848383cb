"""Files that were uploaded for batches and files that batches made: a row each, and a blob.

A file belongs to its key's owner. No two files share a blob (each begins with a line that names its
file), so that deleting one deletes its words, and nobody else's.
"""

import secrets
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from trimtab.canonical import canonical_json
from trimtab.gateway.keys import Key
from trimtab.gateway.problems import Problem
from trimtab.gateway.tables import BLOBS_OF_FILES, BYTES_OF, USED_FILES, batches, files, page
from trimtab.ledger.tables import database_now
from trimtab.store.blobs import Blobs
from trimtab.store.database import Connection

FILE_BYTES = 64 * 1024 * 1024
OWNER_BYTES = 1024 * 1024 * 1024
KEPT_US = 30 * 24 * 3600 * 1_000_000
# A blob whose row was not written yet may be on its way.
ORPHAN_S = 3600.0
_CHUNK = 1 << 16

Purpose = Literal["batch", "batch_output"]


@dataclass(frozen=True, slots=True)
class File:
    """`bytes` counts what was uploaded; `endpoint` is the route its `lines` are for."""

    id: str
    key_id: str
    owner: str
    name: str
    purpose: Purpose
    bytes: int
    blob: str
    lines: int
    endpoint: str | None
    created_us: int
    expires_us: int


def new_id() -> str:
    return f"file-{secrets.token_hex(16)}"


def mark(file_id: str) -> bytes:
    """The line that a file's blob begins with."""
    return canonical_json({"file": file_id}) + b"\n"


def store(content: Blobs, file_id: str, lines: Iterable[bytes]) -> str:
    """Write a file's words; their blob. Without a row beside it, it is deleted in a while."""

    def chunks() -> Iterator[bytes]:
        yield mark(file_id)
        yield from lines

    return content.put_chunks(chunks())


def words(path: Path, file_id: str) -> Iterator[bytes]:
    """What was stored, in pieces."""
    with path.open("rb") as blob:
        blob.seek(len(mark(file_id)))
        while chunk := blob.read(_CHUNK):
            yield chunk


def check_room(connection: Connection, owner: str, more: int) -> None:
    """Raises Problem where an owner's files would hold more than they may."""
    held = int(connection.execute(BYTES_OF, {"owner": owner}).scalar_one())
    if held + more > OWNER_BYTES:
        detail = f"file: {held} bytes of files are kept for '{owner}' of {OWNER_BYTES}; delete some"
        raise Problem(413, "files_full", detail)


def add(connection: Connection, file: File) -> None:
    connection.execute(files.insert().values(asdict(file)))


def get(connection: Connection, key: Key, file_id: str) -> File:
    """A file of the key's owner; raises Problem for another's, as for one that is not there."""
    return _of(connection, key, file_id, files.select())


def locked(connection: Connection, key: Key, file_id: str) -> File:
    """As `get`, and until the transaction ends nobody else deletes it or makes a batch of it."""
    return _of(connection, key, file_id, files.select().with_for_update())


def find(connection: Connection, file_id: str | None) -> File | None:
    """A file by id, whoever's it is and however old; for a batch, which has the right to it."""
    row = connection.execute(files.select().where(files.c.id == file_id)).first()
    return None if row is None else _file(row)


def list(
    connection: Connection,
    key: Key,
    after: File | None,
    limit: int,
    purpose: str | None,
    *,
    oldest_first: bool,
) -> Sequence[File]:
    """The files of the key's owner, beyond `after`."""
    place = None if after is None else (after.created_us, after.id)
    query = page(files, key.owner, place, limit, oldest_first=oldest_first)
    query = query.where(files.c.expires_us > database_now(connection))
    if purpose is not None:
        query = query.where(files.c.purpose == purpose)
    return tuple(_file(row) for row in connection.execute(query))


def delete(connection: Connection, file: File) -> None:
    """Forget a file that is locked; its blob is for the caller to delete, once this is committed.

    Raises Problem while a batch works on it.
    """
    if file.id in used(connection):
        raise Problem(409, "file_in_use", "file: a batch works on it; cancel the batch first")
    connection.execute(files.delete().where(files.c.id == file.id))


def drop(connection: Connection, ids: Sequence[str]) -> None:
    """Forget files that others took the place of."""
    connection.execute(files.delete().where(files.c.id.in_(ids)))


def forget(
    connection: Connection, now_us: int, *, everything: bool, owner: str | None = None
) -> Sequence[File]:
    """Delete the rows of files whose time is over, or of all of them, but those that batches work
    on; what they were, for their blobs to be deleted after this is committed."""
    query = files.select() if everything else files.select().where(files.c.expires_us <= now_us)
    if owner is not None:
        query = query.where(files.c.owner == owner)
    # Locked before it is asked who uses them, so that no batch is made of one meanwhile.
    rows = connection.execute(query.order_by(files.c.id).with_for_update()).all()
    busy = used(connection)
    gone = [_file(row) for row in rows if row.id not in busy]
    for file in gone:
        connection.execute(files.delete().where(files.c.id == file.id))
    return gone


def orphans(connection: Connection, content: Blobs) -> Sequence[str]:
    """Blobs that a crash left without a row."""
    old = [*content.older_than(ORPHAN_S)]
    if not old:
        return ()
    known = frozenset(connection.execute(BLOBS_OF_FILES).scalars())
    return [blob for blob in old if blob not in known]


def used(connection: Connection, owner: str | None = None) -> frozenset[str]:
    """The files that batches work on; of one owner where one is named."""
    query = USED_FILES if owner is None else USED_FILES.where(batches.c.owner == owner)
    return frozenset(connection.execute(query).scalars())


def _of(connection: Connection, key: Key, file_id: str, query: Any) -> File:
    here = (files.c.id == file_id) & (files.c.owner == key.owner)
    row = connection.execute(query.where(here)).first()
    if row is None or row.expires_us <= database_now(connection):
        raise Problem(404, "file_not_found", f"file: no file '{file_id[:80]}'")
    return _file(row)


def _file(row: Any) -> File:
    return File(**row._mapping)
