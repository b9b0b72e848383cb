"""How long content is kept, and its end: answers for replays a day; files, dead letters and the
words that a project logs 30 days.

Deleting goes in small transactions, and may be interrupted anywhere and done again. What a batch
under way needs is left, and told.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from trimtab.gateway import keys, replays
from trimtab.gateway.offline import ending, files
from trimtab.gateway.offline.batches import ENDED
from trimtab.gateway.tables import HOLDS_CONTENT, batches, lines
from trimtab.journal import dead_letters, words
from trimtab.journal.dead_letters import Choice
from trimtab.ledger.tables import database_now
from trimtab.store.blobs import Blobs
from trimtab.store.database import Connection, Database

_AT_ONCE = 500


@dataclass(frozen=True, slots=True)
class Purged:
    """How many were deleted; `kept_for_batches` counts files that batches under way work on."""

    answers: int
    files: int
    dead_letters: int
    lines: int
    orphans: int
    words: int
    kept_for_batches: int


def purge(
    database: Database, content: Blobs, *, everything: bool = False, owner: str | None = None
) -> Purged:
    """Delete what has expired, or (with `everything`) all content; of one owner where one is named.

    Raises StoreError. Interrupted, it leaves what it did done.
    """
    with database.transaction() as connection:
        now = database_now(connection)
        named = None if not everything else _keys(connection, owner)
        spoken = words.purge(connection, now, everything=everything, owner=owner)
        answers = replays.purge(connection, all_of=named) + replays.shorten(connection)
        gone = files.forget(connection, now, everything=everything, owner=owner)
    for file in gone:
        content.delete(file.blob)
    ending.forget_leftovers(database)
    letters = _letters(database, everything, owner, now)
    dropped = _lines(database, everything, owner, now)
    with database.read() as connection:
        lost = files.orphans(connection, content)
        left = len(files.used(connection, owner)) if everything else 0
    for blob in lost:
        content.delete(blob)
    return Purged(answers, len(gone), letters, dropped, len(lost), spoken, left)


def _keys(connection: Connection, owner: str | None) -> Iterable[str]:
    return [key.id for key in keys.list(connection) if owner in (None, key.owner)]


def _letters(database: Database, everything: bool, owner: str | None, now_us: int) -> int:
    if not everything:
        with database.transaction() as connection:
            return dead_letters.purge_expired(connection, now_us)
    count, choice = 0, Choice(owner=owner, state="dead", until_us=now_us)
    while True:
        with database.transaction() as connection:
            found = [letter.id for letter in dead_letters.list(connection, choice, _AT_ONCE)]
            count += dead_letters.purge(connection, found)
        if not found:
            return count


def _lines(database: Database, everything: bool, owner: str | None, now_us: int) -> int:
    """Rows of lines that nothing asks for any more: their batch is over, their files are gone.

    A batch is tidied once: one without lines and details is not looked at again.
    """
    query = batches.select().where(batches.c.status.in_(ENDED) & HOLDS_CONTENT)
    if not everything:
        query = query.where(batches.c.ended_us <= now_us - files.KEPT_US)
    if owner is not None:
        query = query.where(batches.c.owner == owner)
    with database.read() as connection:
        ended = [row.id for row in connection.execute(query)]
    count = 0
    for batch in ended:
        here = lines.c.batch_id == batch
        with database.transaction(durable=False) as connection:
            count += connection.execute(lines.delete().where(here)).rowcount
            # What its sender wrote beside it is content too.
            connection.execute(batches.update().where(batches.c.id == batch).values(details=None))
    return count
