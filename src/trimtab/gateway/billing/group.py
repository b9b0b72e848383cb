"""Group commit: many small pieces of work in one transaction, so that each pays for a part of it.

While one transaction runs in its thread, the next one's work gathers, and whoever is about to ask
for some gets in as well: a transaction costs more than what it does for one. Work that makes its
transaction fail is tried again alone, so that it costs nobody else; where the store itself cannot
be written, all of it fails at once: nobody waits for a lock as often as there is work. What another
transaction was in the way of (a deadlock) is done once more.
"""

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any, Generic, TypeVar

from trimtab.errors import StorageFull, StoreClosed, StoreConflict, StoreError, StoreRefused
from trimtab.store.database import Connection, Database

Item = TypeVar("Item")
Batch = Sequence[tuple[Item, asyncio.Future[Any]]]
# So many that a transaction stays short for the other processes.
MOST = 128
# What a database says that cannot be worked with, now or in this way.
STORE = (StoreError, StorageFull, StoreClosed)


class GroupCommit(Generic[Item]):
    """`work` does items in one transaction; it returns each one's result, or the error that it has.

    Survives `kill -9`; a loss of power may take the last moments (DESIGN: durability).
    """

    def __init__(
        self, database: Database, work: Callable[[Connection, Sequence[Item]], Sequence[Any]]
    ) -> None:
        self._database = database
        self._work = work
        self._waiting: list[tuple[Item, asyncio.Future[Any]]] = []
        # What is done now, or waits for a turn of the loop that brings nothing more.
        self._running: asyncio.Future[None] | None = None
        self._thread = ThreadPoolExecutor(1, "commit")

    def ask(self, item: Item) -> asyncio.Future[Any]:
        """The item's result, once it is committed: it is done though nobody waits. Whoever waits
        shields it."""
        loop = asyncio.get_running_loop()
        done: asyncio.Future[Any] = loop.create_future()
        self._waiting.append((item, done))
        running = self._running
        # One that a loop before this one left behind ends no more.
        if running is None or running.done() or running.get_loop() is not loop:
            self._running = loop.create_future()
            loop.call_soon(self._gather, loop, 0)
        return done

    async def settled(self) -> None:
        """Wait until nothing is under way."""
        while self._running is not None and not self._running.done():
            await asyncio.shield(self._running)

    # Plain callbacks, and no task: each hand-over to a thread and back is on every request's way.

    def _gather(self, loop: asyncio.AbstractEventLoop, before: int) -> None:
        """Begin once a turn of the loop brings nothing more."""
        if before < len(self._waiting) < MOST:
            loop.call_soon(self._gather, loop, len(self._waiting))
            return
        batch, self._waiting = self._waiting[:MOST], self._waiting[MOST:]
        try:
            self._thread.submit(self._work_off, loop, batch)
        except Exception as error:  # no thread could be had
            self._tell(loop, batch, [error] * len(batch))

    def _work_off(self, loop: asyncio.AbstractEventLoop, batch: Batch[Item]) -> None:
        results = self._commit([item for item, _ in batch])
        # A loop that was stopped meanwhile has nobody who waits.
        with suppress(RuntimeError):
            loop.call_soon_threadsafe(self._tell, loop, batch, results)

    def _tell(
        self, loop: asyncio.AbstractEventLoop, batch: Batch[Item], results: Sequence[Any]
    ) -> None:
        for (_, done), result in zip(batch, results, strict=True):
            if done.done():
                continue
            if isinstance(result, BaseException):
                done.set_exception(result)
                done.exception()  # whoever left will not ask for it
            else:
                done.set_result(result)
        if self._waiting:
            loop.call_soon(self._gather, loop, 0)
        elif self._running is not None:
            self._running.set_result(None)

    def _commit(self, items: Sequence[Item]) -> Sequence[Any]:
        try:
            try:
                return self._done(items)
            except StoreConflict:
                return self._done(items)
        except Exception as error:
            if len(items) == 1 or _of_the_store(error):
                return [error] * len(items)
            return [self._commit([item])[0] for item in items]

    def _done(self, items: Sequence[Item]) -> Sequence[Any]:
        with self._database.transaction(durable=False) as connection:
            return self._work(connection, items)


def _of_the_store(error: Exception) -> bool:
    """Whether the same would be said of any other work."""
    return isinstance(error, STORE) and not isinstance(error, StoreRefused)
