"""Work that is done once for all who ask for it while it goes on."""

import asyncio
from collections.abc import Callable, Coroutine, Hashable
from typing import Any, Generic, TypeVar

Result = TypeVar("Result")


class Shared(Generic[Result]):
    """Runs of one kind of work, by name. A caller that leaves does not end a run."""

    def __init__(self) -> None:
        self._running: dict[Hashable, asyncio.Future[Result]] = {}

    async def do(self, name: Hashable, work: Callable[[], Coroutine[Any, Any, Result]]) -> Result:
        """The result of the run of that name, which begins with the first who asks. What it raises,
        all of them hear; who asks after its end begins a new one."""
        running = self._running.get(name)
        if running is None:
            running = self._running[name] = asyncio.ensure_future(work())
            running.add_done_callback(lambda done: self._ended(name, done))
        return await asyncio.shield(running)

    def _ended(self, name: Hashable, done: asyncio.Future[Result]) -> None:
        del self._running[name]
        if not done.cancelled():
            # Nobody may be left to ask for it.
            done.exception()
