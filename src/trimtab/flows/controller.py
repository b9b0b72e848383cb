"""The controller: `python -m trimtab.flows.controller`, one active in a home at a time.

It leads by a lease in the database, so that of several controllers one works and another takes over
when it dies. It settles the holds that a crash left open, charges what a loop that was killed had
spent, and deletes content whose time is over.
"""

import argparse
import logging
import os
import secrets
import signal
import socket
import threading
import time
from pathlib import Path

from trimtab.child import leave_with_parent
from trimtab.errors import TrimtabError
from trimtab.flows.bills import settle_left
from trimtab.flows.tables import take_lease
from trimtab.gateway.offline.retention import purge
from trimtab.ledger.recovery import Recovery
from trimtab.store.clock import now_us
from trimtab.store.database import Database
from trimtab.store.home import Home

TICK_S = 1.0
SWEEP_S = 60.0
LEASE_US = 5_000_000

log = logging.getLogger(__name__)


class Controller:
    """`tick` does one round of work, if this controller leads."""

    def __init__(self, database: Database, home: Home) -> None:
        self._database = database
        self._home = home
        self._swept_at = float("-inf")
        self._recovery = Recovery()
        self._owner = f"{socket.gethostname()[:30]}-{os.getpid()}-{secrets.token_hex(4)}"

    def tick(self) -> bool:
        """Whether this controller leads. Raises StoreError where the database cannot be written."""
        now = now_us()
        with self._database.transaction(durable=False) as connection:
            if not take_lease(connection, "controller", self._owner, now, now + LEASE_US):
                return False
            for hold in self._recovery.settle(connection):
                log.warning("settled the hold of request %s by estimate", hold.request_id)
        if time.monotonic() - self._swept_at >= SWEEP_S:
            self._swept_at = time.monotonic()
            purge(self._database, self._home.content)
            settle_left(self._home, self._database)
        return True


def main() -> None:
    parser = argparse.ArgumentParser(prog="trimtab.flows.controller")
    parser.add_argument("--home", type=Path, required=True)
    parser.add_argument("--parent-fd", type=int, required=True)
    given = parser.parse_args()
    leave_with_parent(given.parent_fd)
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s controller: %(message)s")
    stopped = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stopped.set())
    home = Home(given.home)
    controller = Controller(home.database(), home)
    while not stopped.wait(TICK_S):
        try:
            controller.tick()
        except (TrimtabError, OSError) as error:
            # A full disk or a held lock passes; the next tick tries again.
            log.warning("%s", error)


if __name__ == "__main__":
    main()
