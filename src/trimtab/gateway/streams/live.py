"""Streams whose work outlives a broken connection for a moment, so that a client can come back.

An event's id is how many characters were sent up to it. So any part of the text can be told from
any other: by this process while it works, by another one that follows it (`elsewhere`), and from
the stored answer by all of them afterwards.
"""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

from starlette.types import Receive

from trimtab.gateway import problems
from trimtab.gateway.bodies import Done, Token
from trimtab.gateway.drain import Drain
from trimtab.gateway.problems import ClientGone, Problem
from trimtab.gateway.streams.stream import Emit, EventStream, too_late, unless_gone

RESUME_S = 10.0
# How often a stream looks whether somebody reads it elsewhere.
POLL_S = 0.5
# Connections of a gateway that may follow one stream that is made elsewhere.
FOLLOWERS = 4
# Characters that may wait for a client to come back.
MOST = 1_000_000

Name = tuple[str, str]


class Live:
    """One answer as it grows. Whoever reads it may leave and come back, here or to another gateway:
    `listened` tells that one what was said, and whether somebody listens there."""

    def __init__(
        self, fingerprint: str, trace_id: str, listened: Callable[[str], Awaitable[bool]]
    ) -> None:
        self.fingerprint = fingerprint
        self.trace_id = trace_id
        self._listened = listened
        self._text = ""
        self._readers = 0
        self._changed = asyncio.Event()
        self._ended: Done | BaseException | None = None
        self._left = asyncio.Event()

    @property
    def is_read(self) -> bool:
        """Whether somebody is told how it goes on, and how it ends."""
        return self._readers > 0

    async def hear(self, text: str) -> None:
        self._text += text
        if len(self._text) > MOST:
            raise Problem(503, "too_long", "the answer is too long to be kept for a resume")
        self._wake()

    async def unless_left(self, work: Coroutine[Any, Any, None], left_s: float) -> None:
        """Do the work, unless nobody reads it for RESUME_S (ClientGone), or time is over."""
        working = asyncio.ensure_future(work)
        deserted = asyncio.ensure_future(self._deserted())
        try:
            both = (working, deserted)
            await asyncio.wait(both, timeout=left_s, return_when=asyncio.FIRST_COMPLETED)
            if working.done():
                return working.result()
            if deserted.done():
                raise ClientGone("the client did not come back")
            raise too_late()
        finally:
            for task in (working, deserted):
                task.cancel()
            await asyncio.gather(working, deserted, return_exceptions=True)

    def end(self, outcome: Done | BaseException) -> None:
        self._ended = outcome
        self._wake()

    def stream(self, offset: int) -> EventStream:
        """The answer from a character on."""
        # Counted from now on: the work must not be given up before the first byte is asked for.
        self._readers += 1

        async def produce(emit: Emit, receive: Receive) -> None:
            try:
                # The work has its own deadline, and tells of it.
                await unless_gone(receive, self._tell(emit, offset), None)
            finally:
                self._readers -= 1
                self._left.set()

        return EventStream(produce, self.trace_id)

    async def _tell(self, emit: Emit, offset: int) -> None:
        while True:
            changed = self._changed
            if offset < len(self._text):
                text, offset = self._text[offset:], len(self._text)
                await emit("token", Token(text=text), offset)
                continue
            if isinstance(self._ended, Done):
                await emit("done", self._ended, offset)
                return
            if self._ended is not None:
                raise self._ended
            await changed.wait()

    async def _deserted(self) -> None:
        """Ends when nobody has read it for RESUME_S. Looks elsewhere all along: a connection that
        is dead may count as open for long, while its client has come back to another gateway."""
        alone_s = 0.0
        while alone_s < RESUME_S:
            step_s = min(POLL_S, RESUME_S - alone_s)
            with suppress(TimeoutError):
                async with asyncio.timeout(step_s):
                    await self._left.wait()
            heard = await self._listened(self._text)
            read = heard or self.is_read or self._left.is_set()
            alone_s = 0.0 if read else alone_s + step_s
            self._left.clear()

    def _wake(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()


@dataclass(slots=True)
class Lives:
    """The streams of a gateway that can be taken up again."""

    drain: Drain
    _lives: dict[Name, Live] = field(default_factory=dict)
    _followers: Counter[Name] = field(default_factory=Counter)

    def get(self, name: Name) -> Live | None:
        return self._lives.get(name)

    @contextmanager
    def followed(self, name: Name) -> Iterator[None]:
        """A connection follows a stream that is made elsewhere. Raises Problem where as many do as
        may: each looks at the database as long as the work runs."""
        if self._followers[name] >= FOLLOWERS:
            detail = f"Last-Event-ID: {FOLLOWERS} connections follow this stream already"
            raise Problem(409, "idempotency_in_flight", detail, retryable=True)
        self._followers[name] += 1
        try:
            yield
        finally:
            self._followers[name] -= 1
            if not self._followers[name]:
                del self._followers[name]

    def start(self, name: Name, live: Live, work: Coroutine[Any, Any, Done]) -> None:
        """Let the work go on by itself, until it ends or is given up."""

        async def run() -> None:
            try:
                live.end(await work)
            except BaseException as error:
                live.end(error)
                if not live.is_read:
                    problems.noted(error, live.trace_id)
                if not isinstance(error, Exception):
                    raise
            finally:
                # Another may have taken its place under the name.
                if self._lives.get(name) is live:
                    del self._lives[name]

        self._lives[name] = live
        self.drain.keep(asyncio.create_task(run()))
