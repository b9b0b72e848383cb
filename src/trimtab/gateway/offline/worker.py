"""Works the batches of a home through, beside the requests that somebody waits for.

One runs in every gateway; the leases of lines keep them apart. While interactive requests are under
way here, one line at a time is begun, and the engine lets it wait behind them. A worker that is
killed costs the lines at hand some time, and nobody money.
"""

import asyncio
import logging
import secrets
from collections.abc import Callable, Sequence
from functools import partial

import anyio.to_thread

from trimtab.errors import StoreRefused, TrimtabError
from trimtab.gateway.billing.group import STORE
from trimtab.gateway.desk import Desk
from trimtab.gateway.offline import asking, batches, ending, lines
from trimtab.gateway.offline.batches import Standing
from trimtab.gateway.offline.line import Line
from trimtab.gateway.problems import LeaseLost
from trimtab.ledger.tables import database_now
from trimtab.store.database import Connection, Database

AT_ONCE = 8
POLL_S = 1.0
BEAT_S = 5.0

log = logging.getLogger(__name__)


class Worker:
    """One for a gateway. `start` it in the loop that serves; it ends with the gateway's drain."""

    def __init__(self, desk: Desk, database: Database) -> None:
        self._desk = desk
        self._database = database
        self._tasks: dict[asyncio.Task[None], str] = {}
        self._ending: str | None = None
        self._woken = asyncio.Event()

    def start(self) -> None:
        self._desk.drain.keep(asyncio.create_task(self._run()))

    def wake(self) -> None:
        """There is something new to do."""
        self._woken.set()

    async def _run(self) -> None:
        beating = asyncio.create_task(self._beat())
        stopping = asyncio.create_task(self._desk.drain.begun.wait())
        try:
            while not stopping.done():
                self._woken.clear()
                busy = await self._turn()
                if not busy:
                    await self._rest(stopping)
        finally:
            # At once: a line begins anew elsewhere, and nobody waits for it.
            for task in (beating, stopping, *self._tasks):
                task.cancel()
            await asyncio.gather(beating, stopping, *self._tasks, return_exceptions=True)

    async def _turn(self) -> bool:
        """Do what there is to do now; whether something was found."""
        try:
            return await self._tend()
        except Exception as error:
            # A full disk or a held lock passes; a fault of ours must not end all other batches.
            known = isinstance(error, TrimtabError | OSError)
            log.warning("batches wait: %s", error if known else type(error).__name__)
            return False

    async def _rest(self, stopping: "asyncio.Task[bool]") -> None:
        """Until a line ends, somebody wakes us, the gateway stops, or for a while."""
        woken = asyncio.create_task(self._woken.wait())
        await asyncio.wait(
            (woken, stopping, *self._tasks),
            timeout=POLL_S,
            return_when=asyncio.FIRST_COMPLETED,
        )
        woken.cancel()

    @property
    def _free(self) -> int:
        most = 1 if self._desk.books.interactive else AT_ONCE
        return most - len(self._tasks)

    async def _tend(self) -> bool:
        now, found, left = await self._desk.database.read(_standing)
        busy = False
        if left:
            busy = bool(await self._desk.database.write(lines.take_back))
        for each in found:
            try:
                busy |= await self._advance(each, now)
            except StoreRefused as error:
                log.warning("batch %s waits: %s", each.batch.id, error)
            except STORE:
                raise
            except Exception as error:
                # A fault of one batch must not stop the others.
                name = type(error).__name__
                log.warning("batch %s waits: %s", each.batch.id, name)
        return busy

    async def _advance(self, standing: Standing, now: int) -> bool:
        batch = standing.batch
        over = batch.expires_us <= now and batch.status == "in_progress"
        if batch.status == "finalizing":
            return batch.lease_until_us <= now and await self._end(standing)
        if batch.status == "cancelling" and standing.waiting:
            return await self._write(lambda c: lines.let_go(c, batch.id))
        if over and (standing.waiting or batch.next_line < batch.total):
            content = self._desk.content
            return await self._write(lambda c: lines.let_die(c, content, batch.id))
        all_begun = batch.status == "cancelling" or batch.next_line >= batch.total
        if all_begun and not standing.waiting and not standing.claimed:
            return await self._end(standing)
        startable = batch.status == "in_progress" and batch.not_before_us <= now and standing.due
        if startable and self._free > 0:
            return await self._begin(batch.id)
        return False

    async def _begin(self, batch_id: str) -> bool:
        token, most, content = secrets.token_hex(16), self._free, self._desk.content

        def claimed(connection: Connection) -> Sequence[Line]:
            return lines.claim(connection, content, batch_id, token, most)

        taken = await self._desk.database.write(claimed)
        for line in taken:
            task = asyncio.create_task(self._work(line))
            self._tasks[task] = token
            task.add_done_callback(lambda done: self._tasks.pop(done, None))
        return bool(taken)

    async def _work(self, line: Line) -> None:
        try:
            outcome = await asking.ask(self._desk, line)
        except LeaseLost:
            outcome = "lease_lost"
        except Exception as error:
            # Its lease runs out, and the line is taken back.
            known = isinstance(error, TrimtabError)
            log.warning("request %s: %s", line.request_id, error if known else type(error).__name__)
            outcome = "not_written"
        self._desk.books.metrics.note_line(outcome)

    async def _end(self, standing: Standing) -> bool:
        token = secrets.token_hex(16)
        batch = await self._desk.database.write(lambda c: ending.begin(c, standing.batch.id, token))
        if batch is None:
            return False
        self._ending = token
        try:
            return await anyio.to_thread.run_sync(
                ending.finish, self._database, self._desk.content, batch, token
            )
        finally:
            self._ending = None

    async def _write(self, work: Callable[[Connection], int]) -> bool:
        return bool(await self._desk.database.write(work))

    async def _beat(self) -> None:
        while True:
            await asyncio.sleep(BEAT_S)
            tokens, writing = sorted(set(self._tasks.values())), self._ending
            if not tokens and writing is None:
                continue
            try:
                await self._desk.database.write(partial(_extend, tokens, writing))
            except Exception as error:
                # The next beat comes soon, and a lease outlives several; without any, all lines at
                # hand would be begun again elsewhere.
                known = isinstance(error, TrimtabError)
                what = error if known else type(error).__name__
                log.warning("leases could not be extended: %s", what)


def _extend(tokens: Sequence[str], writing: str | None, connection: Connection) -> None:
    lines.beat(connection, tokens)
    if writing is not None:
        ending.beat(connection, writing)


def _standing(connection: Connection) -> tuple[int, Sequence[Standing], bool]:
    """The time, the batches that are not over, and whether a lease of theirs ran out."""
    now = database_now(connection)
    found = batches.standing(connection, now)
    return now, found, bool(found) and lines.any_left(connection, now)
