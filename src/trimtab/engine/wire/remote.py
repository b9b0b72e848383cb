"""An engine in another process, spoken to over its Unix socket. Needs no torch.

Calls share one connection. It is opened for the first of them and closed after the last, so there
is nothing to close by hand, and nothing that a restart of the engine leaves stale.
"""

import asyncio
import itertools
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from trimtab.engine.wire.protocol import (
    MAX_FRAME,
    Call,
    Cancel,
    Describe,
    Described,
    Done,
    Embed,
    Embedded,
    Failed,
    Generate,
    Generated,
    Load,
    Reply,
    ScoreCompletions,
    Scored,
    Unload,
    decode_replies,
    encode_call,
)
from trimtab.errors import EngineError, EngineUnavailable, RequestRefused
from trimtab.inference import (
    Capabilities,
    Chunk,
    EmbedRequest,
    GenerateRequest,
    Score,
    ScoreRequest,
    Vector,
    VersionFiles,
    joined,
)

READ_BYTES = 2**18

HINT = "it may be starting or restarting; try again in a moment"


class RemoteEngine:
    """The engine that listens on `socket`.

    Any call raises EngineUnavailable where the engine is gone, at once where it was in flight, and
    the next call tries anew. May be used from several event loops, one after another.
    """

    def __init__(self, socket: Path) -> None:
        self._socket = socket
        self._line: _Line | None = None

    async def capabilities(self) -> Capabilities:
        reply = await self._ask(Describe)
        if not isinstance(reply, Described):
            raise _unexpected(reply)
        return reply.capabilities

    async def load(self, files: VersionFiles) -> None:
        reply = await self._ask(lambda id: Load(id, files))
        if not isinstance(reply, Done):
            raise _unexpected(reply)

    async def unload(self, version: str) -> None:
        reply = await self._ask(lambda id: Unload(id, version))
        if not isinstance(reply, Done):
            raise _unexpected(reply)

    async def score(self, request: ScoreRequest) -> list[Score]:
        reply = await self._ask(lambda id: ScoreCompletions(id, request))
        if not isinstance(reply, Scored):
            raise _unexpected(reply)
        return list(reply.scores)

    async def embed(self, request: EmbedRequest) -> list[Vector]:
        reply = await self._ask(lambda id: Embed(id, request))
        if not isinstance(reply, Embedded):
            raise _unexpected(reply)
        return list(reply.vectors)

    async def generate(self, request: GenerateRequest) -> AsyncGenerator[Chunk, None]:
        async with self._line_now().call(lambda id: Generate(id, request)) as replies:
            while True:
                reply = await replies.next()
                if not isinstance(reply, Generated):
                    raise _unexpected(reply)
                chunk = reply.chunk
                if request.whole and chunk.finish_reason is None:
                    chunk = joined([chunk, *replies.chunks()])
                replies.over = chunk.finish_reason is not None
                yield chunk
                if replies.over:
                    return

    async def _ask(self, make: Callable[[str], Call]) -> Reply:
        async with self._line_now().call(make) as replies:
            reply = await replies.next()
            replies.over = True
            return reply

    def _line_now(self) -> "_Line":
        """A connection of the running event loop that is not known to be broken."""
        loop = asyncio.get_running_loop()
        if self._line is None or self._line.gone or self._line.loop is not loop:
            self._line = _Line(self._socket, loop)
        return self._line


class _Replies:
    """What comes back for one call. `over` says that its last frame is here."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.over = False
        self._loop = loop
        self._arrived: deque[Reply | EngineUnavailable] = deque()
        self._waiting: asyncio.Future[None] | None = None

    def put(self, reply: Reply | EngineUnavailable) -> None:
        self._arrived.append(reply)
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(None)

    def chunks(self) -> list[Chunk]:
        """The chunks that are here already, up to the last one or to a frame that is none."""
        found: list[Chunk] = []
        while self._arrived and isinstance(reply := self._arrived[0], Generated):
            found.append(reply.chunk)
            self._arrived.popleft()
            if reply.chunk.finish_reason is not None:
                break
        return found

    async def next(self) -> Reply:
        """The next frame; raises the error that a frame carries. One caller waits at a time."""
        while not self._arrived:
            self._waiting = self._loop.create_future()
            await self._waiting
        reply = self._arrived.popleft()
        if isinstance(reply, EngineUnavailable):
            self.over = True
            raise reply
        if isinstance(reply, Failed):
            self.over = True
            raise reply.exception()
        return reply


class _Line:
    """One connection and the calls on it; `gone` once it can take no more."""

    def __init__(self, socket: Path, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.gone = False
        self._socket = socket
        self._calls: dict[str, _Replies] = {}
        self._ids = itertools.count(1)
        self._opening = asyncio.Lock()
        self._writer: asyncio.StreamWriter | None = None
        self._reading: asyncio.Task[None] | None = None

    @asynccontextmanager
    async def call(self, make: Callable[[str], Call]) -> AsyncIterator[_Replies]:
        """Send what `make` makes of a new id. A call left before it is over is cancelled."""
        id, replies = str(next(self._ids)), _Replies(self.loop)
        self._calls[id] = replies
        try:
            await self._send(make(id))
            yield replies
        finally:
            del self._calls[id]
            if not self._calls:
                self._close()
            elif not replies.over and self._writer is not None and not self._writer.is_closing():
                self._writer.write(encode_call(Cancel(id)))

    async def _send(self, call: Call) -> None:
        frame = encode_call(call)
        if len(frame) > MAX_FRAME:
            raise RequestRefused(
                f"the request is {len(frame)} bytes long, a frame holds {MAX_FRAME}",
                hint="send it in parts",
            )
        try:
            writer = await self._open()
            if writer.is_closing():
                # It broke a moment ago, and its end has not been read yet.
                raise ConnectionResetError("the connection broke")
            writer.write(frame)
            await writer.drain()
        except OSError as error:
            self.gone = True
            raise self._unavailable(error.strerror or "the connection broke") from error

    async def _open(self) -> asyncio.StreamWriter:
        if self._writer is not None:
            return self._writer
        async with self._opening:
            if self._writer is None:
                reader, self._writer = await asyncio.open_unix_connection(
                    self._socket, limit=MAX_FRAME
                )
                self._reading = asyncio.create_task(self._read(reader))
            return self._writer

    async def _read(self, reader: asyncio.StreamReader) -> None:
        """Hand out frames until the engine goes away; then tell every call in flight."""
        reason: Failed | EngineUnavailable = self._unavailable("it went away")
        try:
            async for lines in _lines(reader):
                if (refused := self._hand_out(lines)) is not None:
                    reason = refused
                    break
        except (OSError, RequestRefused) as error:
            reason = self._unavailable(str(error))
        self.gone = True
        for replies in self._calls.values():
            replies.put(reason)

    def _hand_out(self, lines: Sequence[bytes]) -> Failed | None:
        """What the engine says against the connection itself, if it does."""
        for reply in decode_replies(lines):
            if isinstance(reply, Failed) and not reply.id:
                return reply
            if (replies := self._calls.get(reply.id)) is not None:
                replies.put(reply)
        return None

    def _close(self) -> None:
        self.gone = True
        # What reads holds this, and must not be held by it: the pair, its buffers and its transport
        # would stay until somebody collects garbage.
        reading, self._reading = self._reading, None
        writer, self._writer = self._writer, None
        if reading is not None:
            reading.cancel()
        if writer is not None:
            writer.close()

    def _unavailable(self, why: str) -> EngineUnavailable:
        return EngineUnavailable(f"engine at {self._socket}: {why}", hint=HINT)


async def _lines(reader: asyncio.StreamReader) -> AsyncIterator[list[bytes]]:
    """Lines, as many at a time as have come. Raises RequestRefused for one above MAX_FRAME."""
    begun = b""
    while data := await reader.read(READ_BYTES):
        *whole, begun = (begun + data).split(b"\n")
        if whole:
            yield whole
        if len(begun) > MAX_FRAME:
            raise RequestRefused(f"a frame is longer than {MAX_FRAME} bytes", hint=HINT)


def _unexpected(reply: Reply) -> EngineError:
    return EngineError(
        f"the engine answered with a frame of the wrong kind: {reply.kind}",
        hint="client and engine must be of one version of trimtab",
    )
