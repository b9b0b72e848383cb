"""Batches: a file's requests as one piece of work, with a time until which it is to be done.

The row says how far the file was begun and how it goes; who works on a line is said by `lines`.
"""

import json
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from trimtab.gateway.keys import Key
from trimtab.gateway.offline import files
from trimtab.gateway.offline.files import File
from trimtab.gateway.problems import Problem
from trimtab.gateway.tables import BATCH_STATES, LOCK_BATCH, OPEN_BATCHES, batches, page
from trimtab.ledger.tables import database_now
from trimtab.store.database import Connection

MOST_OPEN = 100
ENDED = ("completed", "expired", "cancelled")

Status = Literal["in_progress", "cancelling", "finalizing", "completed", "expired", "cancelled"]


@dataclass(frozen=True, slots=True)
class Batch:
    """`answered` and `failed` count lines of the `total`; `next_line` is the first that was not
    begun, at `next_offset` of the input's blob.

    A batch that `waits_for` something is not tried again before `not_before_us`. `claim` and
    `lease_until_us` are those of the process that writes its files and then forgets its answers.
    `details` is the sender's own.
    """

    id: str
    key_id: str
    owner: str
    endpoint: str
    input_file: str
    details: str | None
    window_s: int
    total: int
    next_offset: int
    created_us: int
    expires_us: int
    status: Status = "in_progress"
    output_file: str | None = None
    error_file: str | None = None
    waits_for: str | None = None
    answered: int = 0
    failed: int = 0
    next_line: int = 0
    not_before_us: int = 0
    served_us: int = 0
    claim: str | None = None
    lease_until_us: int = 0
    cancelling_us: int | None = None
    finalizing_us: int | None = None
    ended_us: int | None = None


@dataclass(frozen=True, slots=True)
class Standing:
    """A batch that is not over: how many of its lines wait or are worked on, and whether one of
    those that are left could be begun."""

    batch: Batch
    waiting: int
    claimed: int
    due: bool


def create(
    connection: Connection,
    key: Key,
    file: File,
    endpoint: str,
    window_s: int,
    details: Mapping[str, str] | None,
) -> Batch:
    """Accept a file's requests. Raises Problem."""
    if file.purpose != "batch":
        raise Problem(422, "invalid_request", "input_file_id: was not uploaded for a batch")
    if file.endpoint != endpoint:
        detail = f"endpoint: the lines of the file are for {file.endpoint}"
        raise Problem(422, "invalid_request", detail)
    mine = (batches.c.owner == key.owner) & batches.c.status.not_in(ENDED)
    if len(connection.execute(batches.select().where(mine)).all()) >= MOST_OPEN:
        detail = f"{MOST_OPEN} batches of '{key.owner}' are under way; wait for one to end"
        raise Problem(429, "too_many_batches", detail, retryable=True)
    now = database_now(connection)
    made = Batch(
        id=f"batch_{secrets.token_hex(16)}",
        key_id=key.id,
        owner=key.owner,
        endpoint=endpoint,
        input_file=file.id,
        details=json.dumps(dict(details)) if details is not None else None,
        window_s=window_s,
        total=file.lines,
        next_offset=len(files.mark(file.id)),
        created_us=now,
        expires_us=now + window_s * 1_000_000,
    )
    connection.execute(batches.insert().values(asdict(made)))
    return made


def get(connection: Connection, key: Key, batch_id: str) -> Batch:
    """A batch of the key's owner; raises Problem for another's, as for one that is not there."""
    here = (batches.c.id == batch_id) & (batches.c.owner == key.owner)
    row = connection.execute(batches.select().where(here)).first()
    if row is None:
        raise Problem(404, "batch_not_found", f"batch: no batch '{batch_id[:80]}'")
    return _batch(row)


def list(connection: Connection, key: Key, after: Batch | None, limit: int) -> Sequence[Batch]:
    """The batches of the key's owner, the newest first, beyond `after`."""
    place = None if after is None else (after.created_us, after.id)
    query = page(batches, key.owner, place, limit, oldest_first=False)
    return tuple(_batch(row) for row in connection.execute(query))


def cancel(connection: Connection, key: Key, batch_id: str) -> Batch:
    """Begin no line any more; those under way end, and what was answered is kept."""
    found = locked(connection, get(connection, key, batch_id).id)
    if found.status == "in_progress":
        change(connection, found.id, status="cancelling", cancelling_us=database_now(connection))
    elif found.status in ENDED:
        raise Problem(409, "batch_ended", f"batch: is {found.status} already")
    return get(connection, key, batch_id)


def standing(connection: Connection, now_us: int) -> Sequence[Standing]:
    """The batches that are not over, the one that waited longest for its turn first."""
    return tuple(
        Standing(_batch(row), row.waiting, row.claimed, bool(row.due))
        for row in connection.execute(OPEN_BATCHES, {"now": now_us})
    )


def locked(connection: Connection, batch_id: str) -> Batch:
    """As it stands, and nobody else changes it until the transaction ends."""
    return _batch(connection.execute(LOCK_BATCH, {"id": batch_id}).one())


def change(connection: Connection, batch_id: str, **values: Any) -> None:
    connection.execute(batches.update().where(batches.c.id == batch_id).values(values))


def count(connection: Connection, batch_id: str, *, answered: int = 0, failed: int = 0) -> None:
    """Lines have ended, or (below 0) have not after all."""
    columns = batches.c
    change(
        connection,
        batch_id,
        answered=columns.answered + answered,
        failed=columns.failed + failed,
    )


def put_off(connection: Connection, batch_id: str, why: str, until_us: int) -> None:
    """Begin none of its lines before a time."""
    change(connection, batch_id, waits_for=why, not_before_us=until_us)


def keep_claim(connection: Connection, token: str, until_us: int) -> None:
    """Whoever writes a batch's files is still at it."""
    mine = (batches.c.claim == token) & (batches.c.status == "finalizing")
    connection.execute(batches.update().where(mine).values(lease_until_us=until_us))


def unforgotten(connection: Connection) -> Sequence[Batch]:
    """Those that ended, and whose claim is there still: whoever wrote their files has not tidied
    up behind it."""
    left = batches.c.status.in_(ENDED) & batches.c.claim.is_not(None)
    return tuple(_batch(row) for row in connection.execute(batches.select().where(left)))


def counts(connection: Connection) -> Mapping[str, int]:
    """How many batches there are, by status."""
    return {row[0]: row[1] for row in connection.execute(BATCH_STATES)}


_NAMES = frozenset(column.name for column in batches.columns)


def _batch(row: Any) -> Batch:
    return Batch(**{name: value for name, value in row._mapping.items() if name in _NAMES})
