"""Server-sent events (https://html.spec.whatwg.org/multipage/server-sent-events.html).

Knows how events travel, when a silent stream needs a sign of life, and when a client has gone;
not what the events say.
"""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Protocol, TypeVar

from pydantic import BaseModel
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from trimtab.canonical import canonical_json
from trimtab.gateway import problems
from trimtab.gateway.problems import ClientGone, Problem

HEARTBEAT_S = 15.0
DEADLINE_S = 120.0
# An engine that will not answer in time says so at once: so long the status waits for its word.
VERDICT_S = 0.1
# How long a client may leave its full buffer unread before the stream is given up.
PATIENCE_S = 30.0
# So much may wait to leave with the next write.
OUTBOX_BYTES = 64 * 1024
# Proxies must pass events on as they come.
HEADERS = (
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),
    (b"content-type", b"text/event-stream; charset=utf-8"),
)

Result = TypeVar("Result")


class Emit(Protocol):
    """Sends one event; `mark` is the id by which a client may ask for what comes after it. Bytes
    are an event that is written already."""

    async def __call__(
        self, event: str, data: BaseModel | bytes, mark: int | None = None
    ) -> None: ...


class Write(Protocol):
    """Sends bytes as soon as the client has room for them. Raises ClientGone."""

    async def __call__(self, data: bytes, more: bool = True) -> None: ...


async def unless_gone(
    receive: Receive, work: Coroutine[Any, Any, Result], left_s: float | None
) -> Result:
    """The result of `work`, which is cancelled at once when the client goes (ClientGone), or when
    its time is over (Problem); None for work that has an end of its own. The request's body must
    have been read to its end."""
    left = None if left_s is None else max(0.0, left_s)
    going = asyncio.ensure_future(_gone(receive))
    try:
        async with asyncio.timeout(left) as limit:
            going.add_done_callback(ends := lambda _: limit.reschedule(0.0))
            try:
                return await work
            finally:
                going.remove_done_callback(ends)
    except TimeoutError:
        if not limit.expired():
            raise
        if going.done():
            raise ClientGone("the client closed the connection") from None
        raise too_late() from None
    finally:
        going.cancel()


async def in_time(work: Coroutine[Any, Any, Result], left_s: float) -> Result:
    """The result of `work`, which is cancelled when its time is over (Problem)."""
    working = asyncio.ensure_future(work)
    try:
        await asyncio.wait((working,), timeout=max(0.0, left_s))
        if working.done():
            return working.result()
        raise too_late()
    finally:
        await _cancelled(working)


def too_late() -> Problem:
    return Problem(504, "deadline_exceeded", "not finished before the deadline", retryable=True)


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _cancelled(*tasks: asyncio.Future[Any]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


class Dialect(Protocol):
    """How events and errors are spelled on the wire."""

    def event(self, event: str, data: BaseModel, mark: int | None) -> bytes: ...

    def error(self, problem: Problem, trace_id: str) -> bytes: ...


class Ours:
    """The events `token`, `done` and `error`."""

    def event(self, event: str, data: BaseModel, mark: int | None) -> bytes:
        place = "" if mark is None else f"id: {mark}\n"
        return f"{place}event: {event}\ndata: {data.model_dump_json()}\n\n".encode()

    def error(self, problem: Problem, trace_id: str) -> bytes:
        told = canonical_json(problems.body(problem, trace_id))
        return b"event: error\ndata: " + told + b"\n\n"


class _Outbox:
    """Events on their way out. Those of one turn of the loop leave in one write, and the last ones
    with the end; while the client has no room, or much is waiting, whoever has more to say waits.
    """

    def __init__(self, write: Write) -> None:
        self._write = write
        self._said: list[bytes] = []
        self._bytes = 0
        self._leaving: asyncio.Future[None] | None = None

    async def put(self, event: bytes) -> None:
        """Raises ClientGone."""
        if self._leaving is not None and self._leaving.done():
            self._leaving.result()
            self._leaving = None
        self._said.append(event)
        self._bytes += len(event)
        if self._leaving is None:
            self._leaving = asyncio.ensure_future(self._leave())
        if self._bytes > OUTBOX_BYTES:
            await self.empty()

    async def empty(self) -> None:
        """Wait until everything has left. Raises ClientGone."""
        if self._leaving is not None:
            await asyncio.shield(self._leaving)

    async def end(self) -> None:
        """Send what is left, and that it was the last. Raises ClientGone."""
        last = self._taken()
        await self.empty()
        await self._write(last, more=False)

    async def drop(self) -> None:
        if self._leaving is None:
            return
        if self._leaving.done():
            self._leaving.exception()  # nobody may have asked for it
        else:
            await _cancelled(self._leaving)

    async def _leave(self) -> None:
        while self._said:
            await self._write(self._taken())

    def _taken(self) -> bytes:
        events = b"".join(self._said)
        self._said.clear()
        self._bytes -= len(events)
        return events


class EventStream(Response):
    """Runs `produce` while the client reads, at its pace.

    `produce` is handed the way to send an event and the connection's `receive`. What it raises is
    an answer of its own as long as nothing was sent, and an error in the stream from then on.
    """

    def __init__(
        self,
        produce: Callable[[Emit, Receive], Awaitable[None]],
        trace_id: str,
        dialect: Dialect | None = None,
    ) -> None:
        super().__init__()
        self.raw_headers = list(HEADERS)
        self._produce = produce
        self._trace_id = trace_id
        self._dialect = dialect or Ours()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        head = _Head(send, {"status": self.status_code, "headers": self.raw_headers})

        async def write(data: bytes, more: bool = True) -> None:
            try:
                async with asyncio.timeout(PATIENCE_S):
                    await head.sent()
                    await send({"type": "http.response.body", "body": data, "more_body": more})
            except TimeoutError:
                raise ClientGone("the client stopped reading") from None

        async def emit(event: str, data: BaseModel | bytes, mark: int | None = None) -> None:
            if not isinstance(data, bytes):
                data = self._dialect.event(event, data, mark)
            await outbox.put(data)

        outbox = _Outbox(write)
        beat = _Beat(head, write)
        try:
            await self._told(head, emit, outbox, receive)
            await outbox.end()
        except ClientGone:
            # `produce` has closed its books; there is nobody left to tell.
            return
        finally:
            await beat.stop()
            await outbox.drop()

    async def _told(self, head: "_Head", emit: Emit, outbox: _Outbox, receive: Receive) -> None:
        """Errors after the first byte are an event: the status was 200 long ago."""
        try:
            await self._produce(emit, receive)
        except ClientGone:
            raise
        except BaseException as error:
            await outbox.empty()
            if not head.begun and isinstance(error, Exception):
                raise
            problem = problems.noted(error, self._trace_id)
            await outbox.put(self._dialect.error(problem, self._trace_id))
            await outbox.empty()
            if not isinstance(error, Exception):
                raise


class _Head:
    """The status and the headers of a response, sent once, before all else."""

    def __init__(self, send: Send, said: dict[str, Any]) -> None:
        self.begun = False
        self._send = send
        self._said = said
        self._one = asyncio.Lock()

    async def sent(self) -> None:
        if self.begun:
            return
        async with self._one:
            if not self.begun:
                self.begun = True
                await self._send({"type": "http.response.start", **self._said})


class _Beat:
    """Shows signs of life from now on, once the answer is not there at once."""

    def __init__(self, head: _Head, write: Write) -> None:
        self._head = head
        self._write = write
        self._beating: asyncio.Future[None] | None = None
        # Most answers are over before it: they need no task for it.
        self._first = asyncio.get_running_loop().call_later(VERDICT_S, self._begin)

    async def stop(self) -> None:
        self._first.cancel()
        beating, self._beating = self._beating, None
        if beating is not None:
            await _cancelled(beating)

    def _begin(self) -> None:
        self._beating = asyncio.ensure_future(self._beat())

    async def _beat(self) -> None:
        await self._head.sent()
        while True:
            await asyncio.sleep(HEARTBEAT_S)
            await self._write(b": still working\n\n")
