"""An engine behind a Unix socket: many calls on each connection, in the frames of `protocol`.

A connection that ends cancels its calls. A frame that cannot be read costs its sender, and nobody
else.
"""

import asyncio
import json
import logging
from contextlib import aclosing

from trimtab.engine.faults import unexpected
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
    decode_call,
    encode_reply,
)
from trimtab.errors import RequestRefused, TrimtabError
from trimtab.inference import Engine

log = logging.getLogger(__name__)


class Connection:
    """One client: reads its calls, and answers each in a task of its own."""

    def __init__(
        self, engine: Engine, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self._engine = engine
        self._reader = reader
        self._writer = writer
        self._calls: dict[str, asyncio.Task[None]] = {}
        self._frames: list[bytes] = []

    async def serve(self) -> None:
        """Until the client is gone, or has sent what cannot be told apart from noise."""
        try:
            while line := await self._reader.readline():
                await self._accept(line)
        except RequestRefused as error:
            log.warning("a client was dropped: %s", error.message)
            await self._send(Failed.of("", error))
        except ValueError:
            too_long = RequestRefused(f"a frame is longer than {MAX_FRAME} bytes")
            await self._send(Failed.of("", too_long))
        except ConnectionError:
            log.info("a client went away")
        finally:
            await self._end()

    async def finish(self, deadline_s: float) -> None:
        """Let the calls in flight send what they have, then hang up."""
        if self._calls:
            await asyncio.wait(self._calls.values(), timeout=deadline_s)
        self._reader.feed_eof()

    async def _accept(self, line: bytes) -> None:
        try:
            call = decode_call(line)
        except RequestRefused as error:
            if not (sender := _id_in(line)):
                raise
            await self._send(Failed.of(sender, error))
            return
        running = self._calls.get(call.id)
        if isinstance(call, Cancel):
            if running is not None:
                running.cancel()
        elif running is not None:
            raise RequestRefused(f"call {call.id} is in flight already")
        else:
            task = asyncio.create_task(self._answer(call))
            self._calls[call.id] = task
            task.add_done_callback(lambda _: self._calls.pop(call.id, None))

    async def _answer(self, call: Call) -> None:
        try:
            if (error := await self._failure(call)) is not None:
                await self._send(Failed.of(call.id, error))
        except ConnectionError:
            log.info("a client went away")

    async def _failure(self, call: Call) -> TrimtabError | None:
        """Every call has an end: what nobody foresaw is told as well."""
        try:
            await self._run(call)
        except ConnectionError:
            raise
        except TrimtabError as error:
            return error
        except Exception as error:
            return unexpected(error)
        return None

    async def _run(self, call: Call) -> None:
        match call:
            case Generate(id, request):
                async with aclosing(self._engine.generate(request)) as chunks:
                    async for chunk in chunks:
                        await self._send(Generated(id, chunk))
            case ScoreCompletions(id, request):
                await self._send(Scored(id, tuple(await self._engine.score(request))))
            case Embed(id, request):
                await self._send(Embedded(id, tuple(await self._engine.embed(request))))
            case Load(id, files):
                await self._engine.load(files)
                await self._send(Done(id))
            case Unload(id, version):
                await self._engine.unload(version)
                await self._send(Done(id))
            case Describe(id):
                await self._send(Described(id, await self._engine.capabilities()))

    async def _send(self, reply: Reply) -> None:
        """Raises RequestRefused for an answer that no frame holds: it would end every call."""
        frame = encode_reply(reply)
        if len(frame) > MAX_FRAME:
            raise RequestRefused(
                f"the answer is {len(frame)} bytes long, a frame holds {MAX_FRAME}",
                hint="ask for it in parts",
            )
        if not self._frames:
            asyncio.get_running_loop().call_soon(self._flush)
        self._frames.append(frame)
        await self._writer.drain()

    def _flush(self) -> None:
        """What the answers of one step have to say goes together: the reader wakes once."""
        frames, self._frames = self._frames, []
        if frames and not self._writer.is_closing():
            self._writer.write(b"".join(frames))

    async def _end(self) -> None:
        calls = list(self._calls.values())
        for call in calls:
            call.cancel()
        await asyncio.gather(*calls, return_exceptions=True)
        self._flush()
        self._writer.close()


def _id_in(line: bytes) -> str:
    """The id of a call that is wrong otherwise, empty where there is none."""
    try:
        frame = json.loads(line)
    except ValueError:
        return ""
    sender = frame.get("id") if isinstance(frame, dict) else None
    return sender if isinstance(sender, str) else ""
