"""Holds: the worst case is reserved before work starts, and what was used is settled after it.

At every commit, for every account: spent + held <= limit. The reservation is one conditional
UPDATE, so processes that reserve at once cannot overspend together, on any database.
"""

import uuid
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from trimtab.errors import BudgetExceeded, LedgerError
from trimtab.ledger.accounts import locked_account
from trimtab.ledger.money import show
from trimtab.ledger.tables import accounts, holds, spends
from trimtab.store.clock import now_us
from trimtab.store.database import Connection


@dataclass(frozen=True, slots=True)
class Hold:
    """In nano-dollars. `floor_nano` is what the request costs at least, once it was admitted.

    A hold is settled once. One that nobody settled before `expires_us` was left by a crash: it
    settles to its floor and is marked `estimated`.
    """

    id: str
    key_id: str
    request_id: str
    amount_nano: int
    floor_nano: int
    state: Literal["open", "settled", "expired"]
    settled_nano: int | None
    estimated: bool
    created_us: int
    expires_us: int
    owner: str


def reserve(
    connection: Connection,
    key_id: str,
    request_id: str,
    amount: int,
    floor: int,
    expires_us: int,
    owner: str = "",
) -> Hold:
    """Set `amount` aside for a request; asking again for the same request changes nothing.

    Raises BudgetExceeded when the limit does not cover it.
    """
    if not 0 <= floor <= amount:
        raise LedgerError(f"request {request_id}: a floor of {floor} of {amount} nano-dollars")
    account = locked_account(connection, key_id)
    if known := _find(connection, holds.c.request_id == request_id):
        if (known.key_id, known.amount_nano) != (key_id, amount):
            raise LedgerError(f"request {request_id} was reserved with another key or amount")
        return known
    if not _set_aside(connection, key_id, amount):
        left = account.left_nano or 0
        raise BudgetExceeded(
            f"key {key_id}: {show(amount)} are needed and {show(left)} are left",
            hint="ask for fewer tokens, or for a key with a higher budget",
        )
    hold = Hold(
        id=uuid.uuid4().hex,
        key_id=key_id,
        request_id=request_id,
        amount_nano=amount,
        floor_nano=floor,
        state="open",
        settled_nano=None,
        estimated=False,
        created_us=now_us(),
        expires_us=expires_us,
        owner=owner,
    )
    connection.execute(holds.insert().values(_row(hold)))
    return hold


def settle(connection: Connection, hold_id: str, amount: int, kind: str = "request") -> Hold:
    """Spend `amount` of a hold and free the rest; a hold that is closed stays as it is.

    Raises LedgerError for more than was held: a caller clamps its work to the hold.
    """
    hold = _find(connection, holds.c.id == hold_id)
    if hold is None:
        raise LedgerError(f"no hold {hold_id}")
    if not 0 <= amount <= hold.amount_nano:
        raise LedgerError(
            f"hold {hold_id}: {amount} of {hold.amount_nano} nano-dollars cannot be settled"
        )
    closed = replace(hold, state="settled", settled_nano=amount)
    return _close(connection, closed, kind)


def recover(connection: Connection, now: int) -> Sequence[Hold]:
    """Close the holds that expired by `now`: each at its floor, marked estimated."""
    query = holds.select().where((holds.c.state == "open") & (holds.c.expires_us <= now))
    left = [Hold(**row._mapping) for row in connection.execute(query.order_by(holds.c.id))]
    closed = (
        replace(hold, state="expired", settled_nano=hold.floor_nano, estimated=True)
        for hold in left
    )
    return tuple(_close(connection, hold, "recovered") for hold in closed)


def _set_aside(connection: Connection, key_id: str, amount: int) -> bool:
    columns = accounts.c
    covered = columns.limit_nano.is_(None) | (
        columns.spent_nano + columns.held_nano + amount <= columns.limit_nano
    )
    statement = accounts.update().where((columns.key_id == key_id) & covered)
    return connection.execute(statement.values(held_nano=columns.held_nano + amount)).rowcount == 1


def _close(connection: Connection, hold: Hold, kind: str) -> Hold:
    """Write what a hold became, if nobody closed it before; the hold as it stands."""
    # The account first, as `reserve` does: two transactions that lock in one order never deadlock.
    locked_account(connection, hold.key_id)
    still_open = (holds.c.id == hold.id) & (holds.c.state == "open")
    if connection.execute(holds.update().where(still_open).values(_row(hold))).rowcount != 1:
        closed = _find(connection, holds.c.id == hold.id)
        assert closed is not None, "holds are never deleted"
        return closed
    amount = hold.settled_nano or 0
    connection.execute(
        accounts.update()
        .where(accounts.c.key_id == hold.key_id)
        .values(
            held_nano=accounts.c.held_nano - hold.amount_nano,
            spent_nano=accounts.c.spent_nano + amount,
        )
    )
    spend = {
        "id": uuid.uuid4().hex,
        "key_id": hold.key_id,
        "request_id": hold.request_id,
        "amount_nano": amount,
        "kind": kind,
        "created_us": now_us(),
    }
    connection.execute(spends.insert().values(spend))
    return hold


def _find(connection: Connection, where: Any) -> Hold | None:
    row = connection.execute(holds.select().where(where)).first()
    return None if row is None else Hold(**row._mapping)


def _row(hold: Hold) -> dict[str, Any]:
    return {column.name: getattr(hold, column.name) for column in holds.columns}
