"""Signs of life of a gateway: what it works for stays reserved, and what nobody works for expires.

Holds and claims are kept by name, never all that this process once made: one whose end could not be
written, or whose making was never heard of, must not stand for ever.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable

from trimtab.errors import TrimtabError
from trimtab.gateway import replays
from trimtab.gateway.visit import Visit
from trimtab.ledger import reservation
from trimtab.ledger.tables import database_now
from trimtab.store.database import Database

BEAT_S = 5.0
# What is not heard of for so long was left by a crash.
LIFE_US = 60 * 1_000_000

log = logging.getLogger(__name__)


class Heartbeat:
    """`visits` hold money and `claims` (by request) a name; `owed` writes what could not be written
    before, and says whether something is left."""

    def __init__(self, database: Database, owed: Callable[[], Awaitable[bool]]) -> None:
        self.visits: dict[str, Visit] = {}
        self.claims: set[str] = set()
        self._database = database
        self._owed = owed
        self._beating: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Beat from now on, for as long as there is something to beat for."""
        if self._beating is None or self._beating.done():
            self._beating = asyncio.create_task(self._beat())

    def stop(self) -> None:
        if self._beating is not None:
            self._beating.cancel()

    async def _beat(self) -> None:
        left = True
        while left:
            await asyncio.sleep(BEAT_S)
            owing = await self._owed()
            floors = {
                reserved.hold.id: reserved.price.least(visit.usage.prompt, visit.usage.completion)
                for visit in self.visits.values()
                if (reserved := visit.reserved) is not None and visit.mine is None
            }
            try:
                await asyncio.to_thread(self._keep, floors, list(self.claims))
            except TrimtabError as error:
                # The next beat comes soon, and a hold outlives several.
                log.warning("holds could not be extended: %s", error)
            left = bool(self.visits or self.claims or owing)

    def _keep(self, floors: dict[str, int], claims: list[str]) -> None:
        with self._database.transaction(durable=False) as connection:
            expires_us = database_now(connection) + LIFE_US
            reservation.beat(connection, floors, expires_us)
            replays.beat(connection, claims, expires_us)
