"""How a line of a batch ends: answered, dead, or back among those that wait.

It is written in the transaction that settles the line's request, by whoever holds its claim.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from trimtab.gateway.offline import batches, requests
from trimtab.gateway.offline.line import Line
from trimtab.gateway.tables import lines
from trimtab.journal import dead_letters
from trimtab.journal.dead_letters import DeadLetter
from trimtab.ledger.tables import database_now
from trimtab.store.database import Connection

SOURCE = "batch"


@dataclass(frozen=True, slots=True)
class LineAnswered:
    """Written down with the settlement. `answer` is asked for when the cost is known."""

    line: Line
    answer: Callable[[], str]

    @property
    def locks(self) -> str:
        return self.line.batch.id

    def keep(self, connection: Connection) -> None:
        _end(connection, self.line, "answered", answer=self.answer())
        batches.count(connection, self.line.batch.id, answered=1)
        dead_letters.settle(connection, self.line.request_id)


@dataclass(frozen=True, slots=True)
class Dead:
    """It fails for good, for this reason."""

    line: Line
    reason: str
    detail: str

    @property
    def locks(self) -> str:
        return self.line.batch.id

    def keep(self, connection: Connection) -> None:
        line = self.line
        _end(connection, line, "dead", attempts=line.attempts + 1)
        batches.count(connection, line.batch.id, failed=1)
        bury(connection, line, self.reason, self.detail, line.attempts + 1)


@dataclass(frozen=True, slots=True)
class Back:
    """It waits: for its own next attempt, or (`why`) the whole batch does for a while."""

    line: Line
    wait_us: int
    attempted: bool
    why: str | None = None

    @property
    def locks(self) -> str:
        return self.line.batch.id

    def keep(self, connection: Connection) -> None:
        until = database_now(connection) + self.wait_us
        attempts = self.line.attempts + self.attempted
        own = 0 if self.why else until
        _end(connection, self.line, "waiting", attempts=attempts, not_before_us=own)
        if self.why is not None:
            batches.put_off(connection, self.line.batch.id, self.why, until)


def move(connection: Connection, line: Line, state: str, **values: Any) -> None:
    here = lines.c.request_id == line.request_id
    connection.execute(lines.update().where(here).values(state=state, **values))


def bury(connection: Connection, line: Line, reason: str, detail: str, attempts: int) -> None:
    now = database_now(connection)
    letter = DeadLetter(
        id=dead_letters.new_id(),
        source=SOURCE,
        group=line.batch.id,
        place=line.number,
        request_id=line.request_id,
        name=line.request.custom_id,
        key_id=line.batch.key_id,
        owner=line.batch.owner,
        state="dead",
        reason=reason,
        # It may quote a model's or an engine's words, and a database takes no NUL.
        detail=re.sub(r"[\x00-\x1f\x7f]", " ", detail),
        payload=requests.payload(line.request),
        attempts=attempts,
        replays=0,
        created_us=now,
        expires_us=now + dead_letters.KEPT_US,
    )
    dead_letters.put(connection, letter)


def _end(connection: Connection, line: Line, state: str, **values: Any) -> None:
    move(connection, line, state, claim=None, **values)
