"""Dead letters: work that was accepted for later and failed for good, kept with its reason.

Only what failed and why; whoever accepted the work knows how to do it again. The payload is
content: it is kept until `expires_us`, for its key's owner and for whoever runs the home.
"""

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from trimtab.errors import NotFound
from trimtab.journal.tables import COUNT_CHOSEN, COUNT_LETTERS, dead_letters
from trimtab.store.database import Connection

KEPT_US = 30 * 24 * 3600 * 1_000_000

State = Literal["dead", "replaying"]


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadLetter:
    """`source` names the kind of work (`batch`), `group` and `place` which of it: a batch and its
    line. `name` is what its sender calls it, `request_id` the key under which it is billed once.

    `attempts` counts all tries, over all `replays`. A letter that is `replaying` waits for its work
    to end: it goes when there is an answer, else it is dead again, for the new reason.
    """

    id: str
    source: str
    group: str
    place: int
    request_id: str
    name: str
    key_id: str
    owner: str
    state: State
    reason: str
    detail: str
    payload: str
    attempts: int
    replays: int
    created_us: int
    expires_us: int


@dataclass(frozen=True, slots=True)
class Choice:
    """Which letters a verb is about; what is None does not narrow it."""

    group: str | None = None
    reason: str | None = None
    owner: str | None = None
    state: State | None = None
    until_us: int | None = None


EVERYTHING = Choice()


def new_id() -> str:
    return f"dl_{secrets.token_hex(12)}"


def put(connection: Connection, letter: DeadLetter) -> None:
    """Keep a letter. One of the same request takes the place of the one before it, and adds to its
    attempts: a request has one letter at most."""
    here = dead_letters.c.request_id == letter.request_id
    before = connection.execute(dead_letters.select().where(here).with_for_update()).first()
    if before is None:
        connection.execute(dead_letters.insert().values(asdict(letter)))
        return
    values = {
        "state": letter.state,
        "reason": letter.reason,
        "detail": letter.detail,
        "attempts": before.attempts + letter.attempts,
        "created_us": letter.created_us,
        "expires_us": letter.expires_us,
    }
    connection.execute(dead_letters.update().where(here).values(values))


def get(connection: Connection, letter_id: str) -> DeadLetter:
    """Raises NotFound."""
    here = dead_letters.c.id == letter_id
    row = connection.execute(dead_letters.select().where(here)).first()
    if row is None:
        raise NotFound(
            f"no dead letter '{letter_id[:80]}'", hint="see them: trimtab dead-letters list"
        )
    return _letter(row)


def of_requests(connection: Connection, requests: Sequence[str]) -> Mapping[str, DeadLetter]:
    """The letters of requests, those that have one, by request."""
    query = dead_letters.select().where(dead_letters.c.request_id.in_(sorted(set(requests))))
    return {row.request_id: _letter(row) for row in connection.execute(query)}


def list(
    connection: Connection,
    choice: Choice = EVERYTHING,
    limit: int = 1000,
    after: tuple[int, str] | None = None,
) -> Sequence[DeadLetter]:
    """The oldest first, beyond the one that was made at `after` (its id)."""
    made, name = dead_letters.c.created_us, dead_letters.c.id
    query = _chosen(dead_letters.select(), choice)
    if after is not None:
        query = query.where((made > after[0]) | ((made == after[0]) & (name > after[1])))
    rows = connection.execute(query.order_by(made, name).limit(limit))
    return tuple(_letter(row) for row in rows)


def count(connection: Connection, choice: Choice) -> int:
    """How many letters a choice has."""
    return int(connection.execute(_chosen(COUNT_CHOSEN, choice)).scalar_one())


def states(connection: Connection, ids: Sequence[str]) -> Sequence[State]:
    """The states of letters by id; one that is gone is left out."""
    query = dead_letters.select().where(dead_letters.c.id.in_(sorted(ids)))
    return tuple(row.state for row in connection.execute(query))


def replaying(connection: Connection, letter_id: str) -> bool:
    """Take a letter up again; False where it is gone or taken up already."""
    here = (dead_letters.c.id == letter_id) & (dead_letters.c.state == "dead")
    values = {"state": "replaying", "replays": dead_letters.c.replays + 1}
    return connection.execute(dead_letters.update().where(here).values(values)).rowcount == 1


def dead_again(connection: Connection, request_id: str) -> None:
    """It will not be done again for now after all; its reason stays."""
    here = dead_letters.c.request_id == request_id
    connection.execute(dead_letters.update().where(here).values(state="dead"))


def settle(connection: Connection, request_id: str) -> None:
    """Its work has ended well after all, or will never be done: the letter goes."""
    connection.execute(dead_letters.delete().where(dead_letters.c.request_id == request_id))


def purge(connection: Connection, letters: Sequence[str]) -> int:
    """Delete letters by id, but those that are being replayed; how many went."""
    chosen = dead_letters.c.id.in_(sorted(letters)) & (dead_letters.c.state == "dead")
    return connection.execute(dead_letters.delete().where(chosen)).rowcount


def purge_expired(connection: Connection, now_us: int) -> int:
    """Delete the letters whose time is over; how many."""
    over = (dead_letters.c.expires_us <= now_us) & (dead_letters.c.state == "dead")
    return connection.execute(dead_letters.delete().where(over)).rowcount


def counts(connection: Connection) -> Mapping[tuple[str, str, str], int]:
    """How many letters there are, by source, reason and state."""
    return {(row[0], row[1], row[2]): row[3] for row in connection.execute(COUNT_LETTERS)}


def _chosen(query: Any, choice: Choice) -> Any:
    columns = dead_letters.c
    if choice.until_us is not None:
        query = query.where(columns.created_us <= choice.until_us)
    for name in ("group", "reason", "owner", "state"):
        if (value := getattr(choice, name)) is not None:
            query = query.where(columns[name] == value)
    return query


def _letter(row: Any) -> DeadLetter:
    return DeadLetter(**row._mapping)
