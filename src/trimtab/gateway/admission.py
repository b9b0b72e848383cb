"""Admitting a stream: what is refused at once is a plain error, before the first byte.

What takes longer, as while a version is loaded, goes on beside a stream that has begun, so that its
client sees signs of life from admission on; what is refused then is an error in the stream.
"""

import asyncio
from collections.abc import Coroutine
from typing import Any, Self

from trimtab.gateway.generation import Generation, Hear, answer
from trimtab.gateway.streams import stream
from trimtab.gateway.tiers.answering import Answering

# Beyond every deadline that a project may set: admission keeps the request's own.
LONGEST_S = 3600.0


class Admission:
    """One that ended well, or is under way still."""

    def __init__(self, task: asyncio.Future[Answering[None]]) -> None:
        self._task = task

    @classmethod
    async def begun(cls, work: Coroutine[Any, Any, Answering[None]]) -> Self:
        """Raises what refuses it within a heartbeat's time."""
        task = asyncio.ensure_future(work)
        try:
            await asyncio.wait((task,), timeout=stream.HEARTBEAT_S)
        except asyncio.CancelledError:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            raise
        if task.done():
            task.result()
        return cls(task)

    @property
    def left_s(self) -> float:
        """How long `finish` may take at most."""
        return self._task.result().left_s if self._task.done() else LONGEST_S

    async def finish(self, work: Generation, hear: Hear) -> None:
        """Answer, once it is admitted, within the request's deadline."""
        if self._task.done():
            await answer(self._task.result(), work, hear)
            return
        answering = await self._task
        await stream.in_time(answer(answering, work, hear), answering.left_s)
