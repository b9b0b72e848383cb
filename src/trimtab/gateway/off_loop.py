"""The database off the event loop: a commit may take milliseconds, and other streams go on."""

from collections.abc import Callable
from typing import TypeVar

import anyio
import anyio.to_thread

from trimtab.store.database import Connection, Database

Result = TypeVar("Result")
# Fewer than the connections of the database's pool, so that waiting happens here, in order.
THREADS = 12


class OffLoop:
    """Runs work in one transaction of a thread. Raises what the work raises, and StoreError."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._threads = anyio.CapacityLimiter(THREADS)

    async def read(self, work: Callable[[Connection], Result]) -> Result:
        def reading() -> Result:
            with self._database.read() as connection:
                return work(connection)

        return await anyio.to_thread.run_sync(reading, limiter=self._threads)

    async def write(self, work: Callable[[Connection], Result], *, durable: bool = False) -> Result:
        """Survives `kill -9`; a loss of power may take the last moments (DESIGN: durability), but
        not where it is `durable`."""

        def writing() -> Result:
            with self._database.transaction(durable=durable) as connection:
                return work(connection)

        return await anyio.to_thread.run_sync(writing, limiter=self._threads)
