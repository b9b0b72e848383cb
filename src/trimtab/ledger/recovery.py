"""Closing the holds that a crash left, and no others.

The wall clock alone does not tell: it may jump, and a gateway that could not write for a minute (a
full disk, a lock) lives on. So a hold that looks dead is watched first, by a clock of our own that
never jumps: whoever lives moves its expiry meanwhile.
"""

import time
from collections.abc import Callable, Sequence

from trimtab.ledger import reservation
from trimtab.ledger.reservation import Hold
from trimtab.ledger.tables import database_now
from trimtab.ledger.till import Till
from trimtab.store.database import Connection

# Several beats of a gateway.
PATIENCE_S = 15.0
# Made so long after now, a hold was made before the clock was set back.
BACK_US = 60 * 1_000_000


class Recovery:
    """One for whoever leads. `clock` counts seconds and never goes back."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._seen: dict[str, tuple[int, float]] = {}

    def settle(self, connection: Connection) -> Sequence[Hold]:
        """Settle what nobody works for any more, as `close`; called every now and then."""
        suspects = reservation.suspects(connection, database_now(connection), BACK_US)
        now, before = self._clock(), self._seen
        self._seen = {}
        dead = []
        for hold in suspects:
            expires_us, since = before.get(hold.id, (hold.expires_us, now))
            if expires_us != hold.expires_us:
                expires_us, since = hold.expires_us, now
            if now - since >= PATIENCE_S:
                dead.append(hold)
            else:
                self._seen[hold.id] = (expires_us, since)
        return close(connection, dead)


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
