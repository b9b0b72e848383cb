"""One hold at a time, each through a till of its own: what the gateway does for many together."""

from collections.abc import Sequence

from trimtab.errors import LedgerError
from trimtab.ledger import recovery, reservation
from trimtab.ledger.accounts import account_of
from trimtab.ledger.reservation import Hold, Wanted
from trimtab.ledger.tables import database_now
from trimtab.ledger.till import Till
from trimtab.store.database import Connection

# The modules that ask the database for the time: where a test may set it.
CLOCKED = (
    "tests.ledger.one",
    "trimtab.ledger.accounts",
    "trimtab.ledger.recovery",
    "trimtab.ledger.till",
)


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
    """Close the holds that expired by `now` (else by the database's clock), as if nobody had been
    seen to work for them."""
    at = database_now(connection) if now is None else now
    return recovery.close(connection, reservation.suspects(connection, at))
