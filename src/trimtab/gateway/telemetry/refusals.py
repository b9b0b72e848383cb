"""Requests that ended before the books opened for them: a wrong key, an unfit body, a server that
stops. What the books close is theirs, and is not seen here.

Each is counted; so many a second at most become a span and a line of the request log, since whoever
has no key must neither fill a disk nor crowd out those who pay.
"""

import asyncio
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from trimtab.gateway.billing.group import STORE
from trimtab.gateway.off_loop import OffLoop
from trimtab.gateway.problems import Problem
from trimtab.gateway.telemetry.metrics import Metrics
from trimtab.gateway.telemetry.tracing import Trace
from trimtab.journal import requests
from trimtab.journal.requests import Answered
from trimtab.store.ids import new_id

if TYPE_CHECKING:
    from trimtab.gateway.telemetry.spans import Spans

# So many in a row are logged, and so many a second on the average, by each gateway.
BURST, A_SECOND = 200, 2
# They gather for so long, and are written together.
GATHER_S = 0.25


@dataclass(frozen=True, slots=True)
class Refused:
    """`entry` is its line of the log, `trace` what its client was told."""

    entry: Answered
    trace: Trace


class Refusals:
    """One for a gateway; it belongs to its event loop."""

    def __init__(self, database: OffLoop, metrics: Metrics, spans: "Spans | None" = None) -> None:
        self._database = database
        self._metrics = metrics
        self._spans = spans
        self._waiting: list[Answered] = []
        self._writing: asyncio.Future[None] | None = None
        self._ending = asyncio.Event()
        self._room, self._filled_at = float(BURST), time.monotonic()

    def note(self, state: Mapping[str, Any], route: str, problem: Problem) -> None:
        """A request was refused; `state` is what the door knows of it. One whose books were closed
        is told of there."""
        visit, key = state.get("visit"), state.get("key")
        if visit is not None and visit.ended:
            return
        entry = Answered(
            id=visit.id if visit is not None else f"req_{new_id()}",
            trace_id=state["trace_id"],
            route=visit.route if visit is not None else route,
            status=problem.status,
            latency_ms=(time.perf_counter() - state["arrived"]) * 1000,
            session_id=visit.session_id if visit is not None else None,
            user_id=visit.user_id if visit is not None else None,
            key_id=key.id if key is not None else None,
            attempts=0,
            error_code=problem.code,
        )
        self._metrics.note_refused(entry.route, problem.status, problem.code)
        if not self._has_room():
            self._metrics.note_unlogged()
            return
        if self._spans is not None:
            self._spans.note_refused(Refused(entry, state["trace"]))
        self._waiting.append(entry)
        if self._writing is None or self._writing.done():
            self._writing = asyncio.ensure_future(self._write())

    async def settled(self) -> None:
        """The gateway ends: write what was noted."""
        self._ending.set()
        if self._writing is not None:
            await asyncio.shield(self._writing)

    def _has_room(self) -> bool:
        now = time.monotonic()
        self._room = min(BURST, self._room + (now - self._filled_at) * A_SECOND)
        self._filled_at = now
        if self._room < 1:
            return False
        self._room -= 1
        return True

    async def _write(self) -> None:
        while self._waiting:
            with suppress(TimeoutError):
                async with asyncio.timeout(GATHER_S):
                    await self._ending.wait()
            entries, self._waiting = self._waiting, []
            # Where the store cannot be written nothing was done for them that had to be told.
            with suppress(*STORE):
                await self._database.write(partial(requests.record_all, answered=entries))
