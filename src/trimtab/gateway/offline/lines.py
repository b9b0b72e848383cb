"""The lines of a batch: who works on which, and what becomes of those that nobody works on.

A line is claimed under a lease. Whoever claimed it knows its claim, and nothing is reserved,
settled or written for a line by anybody who does not hold its claim at that moment: each of these
is one transaction that locks the line first. What a lease that ran out left behind is taken back,
its hold too, and the line waits for the next.
"""

from collections.abc import Sequence
from typing import Any

from trimtab.gateway import keys
from trimtab.gateway.offline import batches, files, outcomes, requests
from trimtab.gateway.offline.batches import Batch
from trimtab.gateway.offline.line import Line, request_id
from trimtab.gateway.offline.requests import Request
from trimtab.gateway.tables import DUE_LINES, LEFT_LINES, LOCK_LINE, lines
from trimtab.journal import dead_letters
from trimtab.journal.dead_letters import DeadLetter
from trimtab.ledger import reservation
from trimtab.ledger.tables import database_now
from trimtab.ledger.till import Till
from trimtab.store.blobs import Blobs
from trimtab.store.database import Connection

LEASE_US = 30 * 1_000_000
_AT_ONCE = 200


def claim(
    connection: Connection, content: Blobs, batch_id: str, token: str, most: int
) -> Sequence[Line]:
    """Take up to `most` lines of a batch: those that wait for another attempt, then new ones."""
    batch, now = batches.locked(connection, batch_id), database_now(connection)
    if batch.status != "in_progress" or batch.not_before_us > now or batch.expires_us <= now:
        return ()
    file = files.find(connection, batch.input_file)
    key = keys.get(connection, batch.key_id)
    if file is not None and not content.path(file.blob).exists():
        # It may be a folder that is not there for now; what is lost for good ends with the window.
        batches.put_off(connection, batch_id, "store_unavailable", now + LEASE_US)
        return ()
    rows = [*connection.execute(DUE_LINES, {"id": batch_id, "now": now, "most": most})]
    letters = dead_letters.of_requests(connection, [row.request_id for row in rows if row.replays])
    taken = [
        Line(batch, key, row.number, row.request_id, request, row.attempts, token)
        for row in rows
        if (request := _request_of(row, letters.get(row.request_id), file, content)) is not None
    ]
    for line in taken:
        here = (lines.c.batch_id == batch_id) & (lines.c.number == line.number)
        values = {"state": "claimed", "claim": token, "lease_until_us": now + LEASE_US}
        connection.execute(lines.update().where(here).values(values))
    wanted = min(most - len(taken), batch.total - batch.next_line)
    if file is None:
        _lose(connection, batch, [row for row in rows if row.request_id not in letters])
    elif wanted > 0:
        begun = begin(connection, content, batch, wanted, "claimed", token, now + LEASE_US)
        taken += [
            Line(batch, key, number, request_id(batch_id, number), request, 0, token)
            for number, request in begun
        ]
    # Here and not at an answer: that may come while the other lines are put off.
    batches.change(connection, batch_id, served_us=now, waits_for=None)
    return taken


def begin(
    connection: Connection,
    content: Blobs,
    batch: Batch,
    most: int,
    state: str,
    token: str | None = None,
    lease_until_us: int = 0,
) -> Sequence[tuple[int, Request]]:
    """Make rows of the next lines of a batch that is locked; their numbers and requests."""
    file = files.find(connection, batch.input_file)
    assert file is not None, "a batch's file is there while it works"
    found = [*requests.next_lines(content.path(file.blob), batch.next_offset, most)]
    begun = [(batch.next_line + at, requests.read(raw.data)) for at, raw in enumerate(found)]
    if not begun:
        return begun
    connection.execute(
        lines.insert(),
        [
            {
                "batch_id": batch.id,
                "number": number,
                "request_id": request_id(batch.id, number),
                "custom_id": request.custom_id,
                "offset": raw.offset,
                "length": raw.length,
                "state": state,
                "attempts": 0,
                "replays": 0,
                "not_before_us": 0,
                "claim": token,
                "lease_until_us": lease_until_us,
                "answer": None,
            }
            for (number, request), raw in zip(begun, found, strict=True)
        ],
    )
    last = found[-1]
    batches.change(
        connection,
        batch.id,
        next_line=batch.next_line + len(begun),
        next_offset=last.offset + last.length,
    )
    return begun


def beat(connection: Connection, tokens: Sequence[str]) -> None:
    """A living worker keeps its lines. Whoever locks several does so in the order of their
    requests, so that no two wait for each other."""
    mine = lines.c.claim.in_(tokens) & (lines.c.state == "claimed")
    locked = lines.select().where(mine).order_by(lines.c.request_id).with_for_update()
    connection.execute(locked).all()
    until = database_now(connection) + LEASE_US
    connection.execute(lines.update().where(mine).values(lease_until_us=until))


def any_left(connection: Connection, now_us: int) -> bool:
    """Whether a lease ran out. Looked at before anything is locked: mostly none has."""
    return connection.execute(LEFT_LINES, {"now": now_us, "most": 1}).first() is not None


def take_back(connection: Connection) -> int:
    """Let lines wait again whose lease ran out, and take back what was held for them; how many."""
    now = database_now(connection)
    left = [*connection.execute(LEFT_LINES, {"now": now, "most": _AT_ONCE})]
    ids = [row.request_id for row in left]
    before = {hold.request_id: hold for hold in reservation.of_requests(connection, ids)}
    # Budgets before lines, as whoever settles does, so that neither waits for the other.
    accounts = {name for hold in before.values() for name in hold.accounts}
    till = Till(connection, accounts, [hold.id for hold in before.values()])
    still = [
        row
        for row in sorted(left, key=lambda row: str(row.request_id))
        if connection.execute(LOCK_LINE, {"request": row.request_id, "claim": row.claim}).first()
    ]
    held = {hold.request_id: hold for hold in reservation.of_requests(connection, ids)}
    taken = 0
    for row in still:
        hold = held.get(row.request_id)
        if hold != before.get(row.request_id):
            continue  # its worker was quicker than the lock, and is alive
        here = (lines.c.request_id == row.request_id) & (lines.c.lease_until_us <= now)
        values = {"state": "waiting", "claim": None}
        if connection.execute(lines.update().where(here).values(values)).rowcount:
            taken += 1
            if hold is not None:
                till.void(hold.id)
    till.write()
    return taken


def let_die(connection: Connection, content: Blobs, batch_id: str) -> int:
    """Bury lines of a batch whose time is over, some at a time; how many."""
    batch = batches.locked(connection, batch_id)
    file = files.find(connection, batch.input_file)
    if file is not None and not content.path(file.blob).exists():
        file = None
    rows = [*connection.execute(DUE_LINES, {"id": batch_id, "now": 2**62, "most": _AT_ONCE})]
    letters = dead_letters.of_requests(connection, [row.request_id for row in rows if row.replays])
    dead = [
        (row.number, request, row.attempts)
        for row in rows
        if (request := _request_of(row, letters.get(row.request_id), file, content)) is not None
    ]
    fresh: Sequence[tuple[int, Request]] = ()
    lost = 0
    if file is not None:
        fresh = begin(connection, content, batch, _AT_ONCE - len(rows), "dead")
    else:
        unread = [row for row in rows if row.request_id not in letters]
        lost = _lose(connection, batch, unread)
    dead += [(number, request, 0) for number, request in fresh]
    key = keys.get(connection, batch.key_id)
    for number, request, attempts in dead:
        line = Line(batch, key, number, request_id(batch_id, number), request, attempts, "")
        outcomes.move(connection, line, "dead")
        outcomes.bury(connection, line, "expired", "its batch's completion window ended", attempts)
    batches.count(connection, batch_id, failed=len(dead))
    return len(dead) + lost


def let_go(connection: Connection, batch_id: str) -> int:
    """Drop lines of a batch that was cancelled, some at a time; how many. One that was a dead
    letter is one again."""
    batch = batches.locked(connection, batch_id)
    rows = [*connection.execute(DUE_LINES, {"id": batch.id, "now": 2**62, "most": _AT_ONCE})]
    letters = dead_letters.of_requests(connection, [row.request_id for row in rows])
    for row in rows:
        here = lines.c.request_id == row.request_id
        letter = letters.get(row.request_id)
        state = "cancelled" if letter is None else "dead"
        connection.execute(lines.update().where(here).values(state=state, claim=None))
        if letter is not None:
            dead_letters.dead_again(connection, letter.request_id)
    again = sum(row.request_id in letters for row in rows)
    batches.count(connection, batch_id, failed=again)
    return len(rows)


def replay(connection: Connection, letter: DeadLetter) -> bool:
    """Let the line of a letter wait again, under its old id, and open its batch for it; False
    where the letter was taken up already, or its batch is being ended at the moment."""
    batch = batches.locked(connection, letter.group)
    ending = batch.status in ("cancelling", "finalizing")
    if ending or not dead_letters.replaying(connection, letter.id):
        return False
    here = lines.c.request_id == letter.request_id
    values = {
        "state": "waiting",
        "attempts": 0,
        "replays": lines.c.replays + 1,
        "not_before_us": 0,
        "claim": None,
    }
    connection.execute(lines.update().where(here).values(values))
    batches.count(connection, batch.id, failed=-1)
    if batch.status != "in_progress":
        batches.change(
            connection,
            batch.id,
            status="in_progress",
            claim=None,
            expires_us=database_now(connection) + batch.window_s * 1_000_000,
            ended_us=None,
            cancelling_us=None,
            # What a cancelled batch had not begun stays undone.
            total=batch.total if batch.status != "cancelled" else batch.next_line,
        )
    return True


def _lose(connection: Connection, batch: Batch, unread: Sequence[Any]) -> int:
    """Fail what cannot be read any more, as the input of a batch that is locked is gone: the lines
    that wait, without a letter since there are no words to keep, and all that were not begun."""
    for row in unread:
        here = lines.c.request_id == row.request_id
        connection.execute(lines.update().where(here).values(state="dead", claim=None))
    lost = len(unread) + batch.total - batch.next_line
    if lost:
        batches.count(connection, batch.id, failed=lost)
        batches.change(connection, batch.id, next_line=batch.total)
    return lost


def _request_of(
    row: Any, letter: DeadLetter | None, file: files.File | None, content: Blobs
) -> Request | None:
    """What a line asks for: from its letter where it has one, since the file may be gone."""
    if letter is not None:
        return requests.read(letter.payload)
    if file is None:
        return None
    return requests.read(requests.line_at(content.path(file.blob), row.offset, row.length))
