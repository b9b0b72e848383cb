"""Idempotency-Key (draft-ietf-httpapi-idempotency-key-header-07): one answer for one key and body.

The claim is a row that is made before the work. Its gateway keeps it alive while it works; after a
crash it expires, and the next who asks does the work. An answer is content: it is kept for a day,
and only the API key that asked can read it.
"""

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from trimtab.gateway.problems import Problem
from trimtab.gateway.tables import FULL_KEYS, NEWEST_NAMES, replays
from trimtab.ledger.tables import database_now
from trimtab.store.database import Connection
from trimtab.store.rows import insert_once

KEPT_US = 24 * 3600 * 1_000_000
CLAIM_US = 60 * 1_000_000
# Who has not asked for so long does not listen any more, and says so again after a part of that.
LISTENS_US, AGAIN_US = 3 * 1_000_000, 1_000_000
# A longer answer (many embeddings) is not kept; its name is, so that nobody pays twice unawares.
MOST_BYTES = 1024 * 1024
# Answers of one API key; of older ones the name alone is kept, for the same reason.
MOST = 10_000
_NOT_KEPT = ""
_NAME = re.compile(r"[\x21-\x7e]{1,255}")


@dataclass(frozen=True, slots=True)
class Claim:
    """The right to answer under a name, for one API key."""

    key_id: str
    name: str
    fingerprint: str
    request_id: str
    owner: str


@dataclass(frozen=True, slots=True)
class Heard:
    """A stream that another gateway makes, as far as it is known here; `answer` where it is
    whole. `unknown` where whoever makes it has not been told lately that somebody listens."""

    request_id: str
    said: str
    answer: str | None
    unknown: bool


@dataclass(frozen=True, slots=True)
class Replay:
    """A claim and the answer that it ended with, as JSON; asked for once the cost is known."""

    claim: Claim
    answer: Callable[[], str]

    @property
    def locks(self) -> str:
        return ""

    def keep(self, connection: Connection) -> None:
        """In the transaction that settles the request."""
        claim, answer = self.claim, self.answer()
        if len(answer.encode()) > MOST_BYTES:
            answer = _NOT_KEPT
        mine = (replays.c.key_id == claim.key_id) & (replays.c.name == claim.name)
        mine &= replays.c.request_id == claim.request_id
        expires_us = database_now(connection) + KEPT_US
        values = {"answer": answer, "said": None, "expires_us": expires_us}
        connection.execute(replays.update().where(mine).values(values))


def name_of(header: str | None) -> str | None:
    """The header's value. Raises Problem for one that cannot be a key."""
    if header is None:
        return None
    name = header.strip().strip('"')
    if not _NAME.fullmatch(name):
        raise Problem(
            400, "invalid_request", "Idempotency-Key: 1 to 255 printable characters, no spaces"
        )
    return name


def fingerprint(route: str, body: bytes) -> str:
    return hashlib.sha256(route.encode() + b"\0" + body).hexdigest()


def claim(connection: Connection, wanted: Claim) -> str | None:
    """None where the work is ours to do; else the answer that was given before.

    Raises Problem: 422 for another body, 409 while the first is being answered, or where the answer
    was not kept.
    """
    now = database_now(connection)
    here = (replays.c.key_id == wanted.key_id) & (replays.c.name == wanted.name)
    connection.execute(replays.delete().where(here & (replays.c.expires_us <= now)))
    row = {
        "key_id": wanted.key_id,
        "name": wanted.name,
        "fingerprint": wanted.fingerprint,
        "request_id": wanted.request_id,
        "owner": wanted.owner,
        "answer": None,
        "created_us": now,
        "expires_us": now + CLAIM_US,
    }
    if insert_once(connection, replays, row):
        return None
    found = connection.execute(replays.select().where(here)).first()
    if found is None:
        raise _in_flight()
    if found.fingerprint != wanted.fingerprint:
        raise Problem(
            422, "idempotency_mismatch", "Idempotency-Key: was used with another body before"
        )
    if found.answer is None:
        raise _in_flight()
    if found.answer == _NOT_KEPT:
        raise _not_kept()
    return str(found.answer)


def listen(connection: Connection, wanted: Claim) -> Heard | None:
    """What was said so far under a name that another claim has. None where nobody works on it.

    Raises Problem where the answer was not kept.
    """
    now = database_now(connection)
    here = (replays.c.key_id == wanted.key_id) & (replays.c.name == wanted.name)
    here &= (replays.c.fingerprint == wanted.fingerprint) & (replays.c.expires_us > now)
    found = connection.execute(replays.select().where(here)).first()
    if found is None:
        return None
    if found.answer == _NOT_KEPT:
        raise _not_kept()
    said = "" if found.said is None else json.loads(found.said)
    unknown = found.answer is None and (found.listened_us or 0) <= now - AGAIN_US
    return Heard(found.request_id, said, found.answer, unknown)


def attend(connection: Connection, wanted: Claim) -> None:
    """Let whoever holds the claim of a name know that somebody listens."""
    here = (replays.c.key_id == wanted.key_id) & (replays.c.name == wanted.name)
    here &= (replays.c.fingerprint == wanted.fingerprint) & replays.c.answer.is_(None)
    now = database_now(connection)
    connection.execute(replays.update().where(here).values(listened_us=now))


def attended(connection: Connection, held: Claim) -> bool:
    """Whether somebody listens to what is made under a claim."""
    heard = _attended(connection, held)
    return connection.execute(replays.select().where(heard)).first() is not None


def publish(connection: Connection, held: Claim, said: str) -> bool:
    """Put down what was said so far, where somebody listens; False where nobody does."""
    # A model may say what no database takes: NUL, and halves of a surrogate pair.
    values = {"said": json.dumps(said)}
    heard = _attended(connection, held)
    return connection.execute(replays.update().where(heard).values(values)).rowcount == 1


def _attended(connection: Connection, held: Claim) -> Any:
    mine = (replays.c.key_id == held.key_id) & (replays.c.name == held.name)
    mine &= (replays.c.request_id == held.request_id) & replays.c.answer.is_(None)
    return mine & (replays.c.listened_us > database_now(connection) - LISTENS_US)


def holds(connection: Connection, held: Claim) -> bool:
    """Whether the claim is still there; nobody else can take it until the transaction ends."""
    mine = (replays.c.key_id == held.key_id) & (replays.c.name == held.name)
    mine &= replays.c.request_id == held.request_id
    return connection.execute(replays.select().where(mine).with_for_update()).first() is not None


def release(connection: Connection, held: Claim) -> None:
    """What failed may be tried again under the same name."""
    mine = (replays.c.key_id == held.key_id) & (replays.c.name == held.name)
    mine &= (replays.c.request_id == held.request_id) & replays.c.answer.is_(None)
    connection.execute(replays.delete().where(mine))


def beat(connection: Connection, requests: Sequence[str], expires_us: int) -> None:
    """A living gateway keeps the claims of the requests that it works on."""
    if requests:
        mine = replays.c.request_id.in_(requests) & replays.c.answer.is_(None)
        connection.execute(replays.update().where(mine).values(expires_us=expires_us))


def purge(connection: Connection, *, all_of: Iterable[str] | None = None) -> int:
    """Delete what has expired, and every answer of the API keys that are named; how many."""
    old = replays.c.expires_us <= database_now(connection)
    if all_of is not None:
        # A claim without an answer is work under way; its words go when it ends.
        old |= replays.c.key_id.in_(sorted(all_of)) & replays.c.answer.is_not(None)
    return connection.execute(replays.delete().where(old)).rowcount


def shorten(connection: Connection) -> int:
    """Forget the words of what is older than the newest MOST of an API key; how many."""
    count = 0
    for key in connection.execute(FULL_KEYS, {"most": MOST}).scalars().all():
        newest = NEWEST_NAMES.params(key=key, most=MOST)
        old = (replays.c.key_id == key) & replays.c.name.not_in(newest)
        old &= replays.c.answer.is_not(None) & (replays.c.answer != _NOT_KEPT)
        count += connection.execute(replays.update().where(old).values(answer=_NOT_KEPT)).rowcount
    return count


def _not_kept() -> Problem:
    detail = (
        "Idempotency-Key: was answered, and the answer is not kept: it has more than "
        f"{MOST_BYTES} bytes, or {MOST} newer ones came after it"
    )
    return Problem(409, "answer_not_kept", detail)


def _in_flight() -> Problem:
    detail = "Idempotency-Key: the first request with it is being answered"
    return Problem(409, "idempotency_in_flight", detail, retryable=True)
