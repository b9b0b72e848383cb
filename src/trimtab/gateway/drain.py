"""The end of a gateway: no new work, and what is under way may finish for a while."""

import asyncio
import time
from dataclasses import dataclass, field


@dataclass(slots=True)
class Drain:
    """`begun` is set when admission ends. Work that no HTTP response stands for is kept here."""

    begun: asyncio.Event = field(default_factory=asyncio.Event)
    _working: set[asyncio.Task[None]] = field(default_factory=set)

    def keep(self, task: "asyncio.Task[None]") -> None:
        """Wait for this task before the end."""
        self._working.add(task)
        task.add_done_callback(self._working.discard)

    async def finish(self, deadline_s: float) -> None:
        """Let everything end by itself until the deadline, and then end it."""
        self.begun.set()
        until = time.monotonic() + deadline_s
        # What was let in before may begin work meanwhile.
        while self._working and (left_s := until - time.monotonic()) > 0:
            await asyncio.wait(self._working, timeout=left_s)
        while self._working:
            late = [*self._working]
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)
