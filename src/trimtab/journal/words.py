"""What was asked and answered, of the requests whose project wants them kept.

Content, unlike the request log: cut to a size, kept for a time and up to a number, and deleted with
its key's owner. A record's `request_id` is that of its line in the request log.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass

from trimtab.journal.tables import OLD_WORDS, WRITE_WORDS, words
from trimtab.store.database import Connection

KEPT_US = 30 * 24 * 3600 * 1_000_000
# Characters of a prompt and of an answer, and records of a home.
MOST_CHARACTERS = 16_384
MOST = 100_000


@dataclass(frozen=True, slots=True)
class Words:
    """`cut` where the beginning alone is kept. Times are microseconds since the epoch."""

    request_id: str
    key_id: str
    owner: str
    prompt: str
    answer: str
    cut: bool
    created_us: int
    expires_us: int


def of(
    request_id: str,
    key_id: str,
    owner: str,
    prompt: str,
    answer: str,
    now_us: int,
    *,
    cut: bool = False,
) -> Words:
    """What is kept of a request's words; `cut` where these are their beginning already."""
    cut |= max(len(prompt), len(answer)) > MOST_CHARACTERS
    return Words(
        request_id=request_id,
        key_id=key_id,
        owner=owner,
        prompt=_storable(prompt),
        answer=_storable(answer),
        cut=cut,
        created_us=now_us,
        expires_us=now_us + KEPT_US,
    )


def record_all(connection: Connection, spoken: Sequence[Words]) -> None:
    """Keep words, in the transaction that logs their requests."""
    WRITE_WORDS.run(connection, [asdict(each) for each in spoken])


def get(connection: Connection, request_id: str) -> Words | None:
    """None where none were kept, or are kept no more."""
    here = words.c.request_id == request_id
    row = connection.execute(words.select().where(here)).first()
    return None if row is None else Words(**row._mapping)


def purge(
    connection: Connection, now_us: int, *, everything: bool = False, owner: str | None = None
) -> int:
    """Delete what has expired and what is beyond the newest MOST, or (with `everything`) all; of
    one owner where one is named; how many."""
    if everything:
        gone = words.delete()
        gone = gone if owner is None else gone.where(words.c.owner == owner)
        return connection.execute(gone).rowcount
    old = connection.execute(words.delete().where(words.c.expires_us <= now_us)).rowcount
    beyond = words.c.request_id.in_(OLD_WORDS.params(most=MOST))
    return old + connection.execute(words.delete().where(beyond)).rowcount


def _storable(text: str) -> str:
    """The beginning of a text. A model may say what no database takes: NUL, and halves of a
    surrogate pair."""
    return text[:MOST_CHARACTERS].replace("\0", "\ufffd").encode(errors="replace").decode()
