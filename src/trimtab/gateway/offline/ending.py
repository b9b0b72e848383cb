"""The end of a batch: its answers and its failures as two files, in the order of its lines.

Written by one process under a lease, then made known in one transaction with the batch's last
state. A batch that was opened again for a replay ends again: new files take the place of the old.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from trimtab.canonical import canonical_json
from trimtab.gateway.offline import batches, files
from trimtab.gateway.offline.batches import Batch, Status
from trimtab.gateway.offline.files import File
from trimtab.gateway.offline.lines import LEASE_US
from trimtab.gateway.tables import LINES_FROM, lines
from trimtab.journal import dead_letters
from trimtab.ledger.tables import database_now
from trimtab.store.blobs import Blobs
from trimtab.store.database import Connection, Database

_PAGE = 500


@dataclass(frozen=True, slots=True)
class _Written:
    """A file whose blob is written and whose row is not."""

    id: str
    blob: str
    bytes: int
    lines: int


def begin(connection: Connection, batch_id: str, token: str) -> Batch | None:
    """Take the right to end a batch; None where somebody else has it, or there is work left."""
    batch, now = batches.locked(connection, batch_id), database_now(connection)
    if batch.status in batches.ENDED:
        return None
    if batch.status == "finalizing" and batch.lease_until_us > now:
        return None
    undone = batch.status == "in_progress" and batch.next_line < batch.total
    left = lines.c.state.in_(("waiting", "claimed")) & (lines.c.batch_id == batch_id)
    if undone or connection.execute(lines.select().where(left).limit(1)).first() is not None:
        return None
    batches.change(
        connection,
        batch_id,
        status="finalizing",
        claim=token,
        lease_until_us=now + LEASE_US,
        finalizing_us=now,
        waits_for=None,
    )
    return batches.locked(connection, batch_id)


def finish(database: Database, content: Blobs, batch: Batch, token: str) -> bool:
    """Write the files of a batch that we may end; False where the right to it was lost."""
    with database.read() as connection:
        old = files.find(connection, batch.output_file)
        failed = files.find(connection, batch.error_file)
    before = _Before(content, old)
    output = _write(content, _answers(database, batch, before))
    errors = _write(content, _failures(database, batch))
    with database.transaction() as connection:
        now = database_now(connection)
        ours = batches.locked(connection, batch.id).claim == token
        if ours:
            for written, name in ((output, "output"), (errors, "errors")):
                if written is not None:
                    files.add(connection, _row(batch, written, name, now))
            files.drop(connection, [each.id for each in (old, failed) if each is not None])
            batches.change(
                connection,
                batch.id,
                status=_status(batch),
                output_file=output.id if output else None,
                error_file=errors.id if errors else None,
                # The claim goes with the answers in the lines, which are in the file now.
                ended_us=now,
            )
    gone = (old, failed) if ours else (output, errors)
    for each in gone:
        if each is not None:
            content.delete(each.blob)
    if ours:
        _forget_answers(database, batch, token)
    return ours


def forget_leftovers(database: Database) -> None:
    """Forget the answers that a process left beside their file when it was killed in between."""
    with database.read() as connection:
        left = batches.unforgotten(connection)
    for batch in left:
        _forget_answers(database, batch, str(batch.claim))


def beat(connection: Connection, token: str) -> None:
    """Whoever writes long files keeps the right to."""
    batches.keep_claim(connection, token, database_now(connection) + LEASE_US)


def _status(batch: Batch) -> Status:
    if batch.cancelling_us is not None:
        return "cancelled"
    late = batch.finalizing_us is not None and batch.finalizing_us >= batch.expires_us
    return "expired" if late and batch.failed else "completed"


class _Before:
    """The output file of a batch that was opened again, read once beside the lines, in order."""

    def __init__(self, content: Blobs, file: File | None) -> None:
        self._lines = _text(content, file)
        self._head: dict[str, Any] | None = next(self._lines, None)

    def of(self, custom_id: str) -> dict[str, Any] | None:
        """The line of a request, where the file has one."""
        head = self._head
        if head is None or head["custom_id"] != custom_id:
            return None
        self._head = next(self._lines, None)
        return head


def _text(content: Blobs, file: File | None) -> Iterator[dict[str, Any]]:
    if file is None:
        return
    with content.path(file.blob).open("rb") as blob:
        blob.seek(len(files.mark(file.id)))
        for line in blob:
            yield json.loads(line)


def _answers(database: Database, batch: Batch, before: _Before) -> Iterator[bytes]:
    for row in _rows(database, batch):
        known = before.of(row.custom_id)
        if row.state != "answered":
            continue
        if row.answer is not None:
            known = {
                "id": row.request_id,
                "custom_id": row.custom_id,
                "response": {
                    "status_code": 200,
                    "request_id": row.request_id,
                    "body": json.loads(row.answer),
                },
                "error": None,
            }
        if known is not None:
            yield canonical_json(known) + b"\n"


def _failures(database: Database, batch: Batch) -> Iterator[bytes]:
    for page in _pages(database, batch):
        dead = [row for row in page if row.state == "dead"]
        with database.read() as connection:
            letters = dead_letters.of_requests(connection, [row.request_id for row in dead])
        for row in dead:
            letter = letters.get(row.request_id)
            code = letter.reason if letter else "purged"
            told = letter.detail if letter else "its dead letter was deleted"
            failure = {
                "id": row.request_id,
                "custom_id": row.custom_id,
                "response": None,
                "error": {"code": code, "message": told},
            }
            yield canonical_json(failure) + b"\n"


def _rows(database: Database, batch: Batch) -> Iterator[Any]:
    for page in _pages(database, batch):
        yield from page


def _pages(database: Database, batch: Batch) -> Iterator[Sequence[Any]]:
    """The rows of the lines in order, without one long transaction around the writing."""
    number = 0
    while True:
        with database.read() as connection:
            wanted = {"id": batch.id, "first": number, "most": _PAGE}
            page = connection.execute(LINES_FROM, wanted).all()
        if not page:
            return
        yield page
        number = page[-1].number + 1


def _write(content: Blobs, found: Iterator[bytes]) -> _Written | None:
    """Store lines as they come; None where there is none."""
    first = next(found, None)
    if first is None:
        return None
    size = count = 0

    def counted() -> Iterator[bytes]:
        nonlocal size, count
        line: bytes | None = first
        while line is not None:
            size, count = size + len(line), count + 1
            yield line
            line = next(found, None)

    file_id = files.new_id()
    blob = files.store(content, file_id, counted())
    return _Written(file_id, blob, size, count)


def _row(batch: Batch, written: _Written, name: str, now_us: int) -> File:
    return File(
        id=written.id,
        key_id=batch.key_id,
        owner=batch.owner,
        name=f"{batch.id}_{name}.jsonl",
        purpose="batch_output",
        bytes=written.bytes,
        blob=written.blob,
        lines=written.lines,
        endpoint=None,
        created_us=now_us,
        expires_us=now_us + files.KEPT_US,
    )


def _forget_answers(database: Database, batch: Batch, token: str) -> None:
    """The answers are in the file now; a few at a time, since others want to write too. A batch
    that was opened again keeps what it has: its next file takes them up."""
    for first in range(0, batch.total, _PAGE):
        here = (lines.c.batch_id == batch.id) & lines.c.answer.is_not(None)
        here &= lines.c.number.between(first, first + _PAGE - 1) & (lines.c.state == "answered")
        with database.transaction(durable=False) as connection:
            if batches.locked(connection, batch.id).claim != token:
                return
            connection.execute(lines.update().where(here).values(answer=None))
    with database.transaction(durable=False) as connection:
        if batches.locked(connection, batch.id).claim == token:
            batches.change(connection, batch.id, claim=None)
