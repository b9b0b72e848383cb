"""The end of a gateway: no new work, and what is under way may finish for a while."""

import asyncio
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
        if self._working:
            await asyncio.wait(self._working, timeout=deadline_s)
        for task in list(self._working):
            task.cancel()
        await asyncio.gather(*self._working, return_exceptions=True)
