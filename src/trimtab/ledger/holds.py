"""Holds: the worst case is reserved before work starts, and what was used is settled after it.

At every commit, for every budget: spent + held <= limit. One at a time here, each through a till.
"""

from collections.abc import Sequence

from trimtab.errors import LedgerError
from trimtab.ledger import reservation
from trimtab.ledger.accounts import account_of
from trimtab.ledger.reservation import Hold, Wanted
from trimtab.ledger.tables import database_now
from trimtab.ledger.till import Till
from trimtab.store.database import Connection


def reserve(
    connection: Connection,
    key_id: str,
    request_id: str,
    amount: int,
    floor: int,
    expires_us: int,
    owner: str = "",
    payers: Sequence[str] = (),
) -> Hold:
    """Set `amount` aside for a request; asking again for the same request changes nothing.

    `payers` are the accounts beside the key's own. Raises BudgetExceeded when a limit does not
    cover it.
    """
    accounts = (account_of("key", key_id), *payers)
    till = Till(connection, accounts)
    if known := reservation.find(connection, request_id):
        if (known.key_id, known.amount_nano) != (key_id, amount):
            raise LedgerError(f"request {request_id} was reserved with another key or amount")
        return known
    wanted = Wanted(key_id, request_id, accounts, amount, floor, expires_us, owner)
    hold, _ = till.reserve(wanted)
    till.write()
    return hold


def settle(connection: Connection, hold_id: str, amount: int, kind: str = "request") -> Hold:
    """As `Till.settle`, for one hold."""
    found = reservation.get(connection, hold_id)
    till = Till(connection, found.accounts, [hold_id])
    closed = till.settle(hold_id, amount, kind)
    till.write()
    return closed


def recover(connection: Connection, now: int | None = None) -> Sequence[Hold]:
    """Close the holds that expired by `now` (else by the database's clock)."""
    at = database_now(connection) if now is None else now
    return close(connection, reservation.suspects(connection, at))


def close(connection: Connection, dead: Sequence[Hold]) -> Sequence[Hold]:
    """Settle holds to their floors, marked estimated; those that have changed since they were
    looked at are left, as somebody lives who works for them."""
    if not dead:
        return ()
    accounts = {account for hold in dead for account in hold.accounts}
    till = Till(connection, accounts, [hold.id for hold in dead])
    same = [hold.id for hold in dead if till.is_as(hold)]
    closed = tuple(till.expire(hold_id) for hold_id in same)
    till.write()
    return closed
