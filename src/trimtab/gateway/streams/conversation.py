"""`GET /v1/stream`: the bodies of `/v1/generate` over a WebSocket, one after another.

Each text frame is one body; its events come back as frames {"event", "data"}: `token`, `done`,
`error`. A frame that comes while another is answered waits; too many of them, or a client that does
not read, end the connection. Close codes: 1001 when the server goes, 1008 for a key that no longer
opens and for a flood, 4080 for a slow reader.
"""

import asyncio
import time
from contextlib import suppress
from typing import Any

from fastapi import APIRouter, WebSocket
from pydantic import BaseModel, ValidationError
from starlette.datastructures import State
from starlette.websockets import WebSocketDisconnect

from trimtab.canonical import canonical_json
from trimtab.gateway import problems
from trimtab.gateway.bodies import GenerateBody
from trimtab.gateway.desk import Desk
from trimtab.gateway.entrance import unfit
from trimtab.gateway.generate import done, piece
from trimtab.gateway.generation import Generation, admitted, answer
from trimtab.gateway.problems import ClientGone
from trimtab.gateway.streams import stream
from trimtab.gateway.telemetry.tracing import Trace
from trimtab.gateway.visit import Visit

WAITING = 8
# A client that does not read must not keep a server that goes.
LAST_WORD_S = 1.0
GOING_AWAY, POLICY, SLOW = 1001, 1008, 4080

router = APIRouter()


@router.websocket("/v1/stream")
async def talk(socket: WebSocket) -> None:
    """Answer frames until either side goes."""
    desk: Desk = socket.app.state.desk
    await socket.accept()
    task = asyncio.current_task()
    assert task is not None
    desk.drain.keep(task)
    conversation = Conversation(socket, desk)
    code = await conversation.hold()
    with suppress(RuntimeError, WebSocketDisconnect):
        await socket.close(code)


class Conversation:
    """One connection."""

    def __init__(self, socket: WebSocket, desk: Desk) -> None:
        self._socket = socket
        self._desk = desk
        self._waiting: asyncio.Queue[str | None] = asyncio.Queue()
        self._flooded = False
        self._slow = False
        self._stopped = False

    async def hold(self) -> int:
        """Until it ends; the code to close it with."""
        hearing = asyncio.create_task(self._hear())
        going = asyncio.create_task(self._desk.drain.begun.wait())
        try:
            while True:
                next_ = asyncio.create_task(self._waiting.get())
                await asyncio.wait((next_, going), return_when=asyncio.FIRST_COMPLETED)
                # First, since a frame that waited must not be begun by a server that goes.
                if self._desk.drain.begun.is_set():
                    next_.cancel()
                    return GOING_AWAY
                frame = next_.result()
                if frame is None:
                    return POLICY if self._flooded else 1000
                if (code := await self._answer(frame, hearing)) is not None:
                    return code
        finally:
            for task in (hearing, going):
                task.cancel()
            await asyncio.gather(hearing, going, return_exceptions=True)

    async def _hear(self) -> None:
        """Take frames as they come, until the client goes or says too much at once."""
        try:
            while self._waiting.qsize() < WAITING:
                message = await self._socket.receive()
                if message["type"] == "websocket.disconnect":
                    break
                # A frame of bytes is no JSON text, and is told so like any other unfit one.
                self._waiting.put_nowait(message.get("text") or "")
            else:
                self._flooded = True
        finally:
            self._waiting.put_nowait(None)

    async def _answer(self, frame: str, hearing: "asyncio.Task[None]") -> int | None:
        """Answer one frame; a code where the connection has to end with it."""
        known = self._known()
        state = State(known)
        working = asyncio.ensure_future(self._work(frame, state))
        try:
            await asyncio.wait((working, hearing), return_when=asyncio.FIRST_COMPLETED)
            if not working.done():
                return POLICY if self._flooded else 1000
            working.result()
        except ClientGone:
            return SLOW if self._slow else 1000
        except asyncio.CancelledError as error:
            self._stopped = True
            await _cancelled(working)
            with suppress(ClientGone, TimeoutError):
                async with asyncio.timeout(LAST_WORD_S):
                    problem = problems.of(error)
                    await self._send("error", problems.body(problem, state.trace_id))
            return GOING_AWAY
        except Exception as error:
            problem = problems.noted(error, state.trace_id)
            self._desk.refusals.note(known, "stream", problem)
            with suppress(ClientGone):
                await self._send("error", problems.body(problem, state.trace_id))
            return POLICY if problem.status in (401, 403) else None
        finally:
            await _cancelled(working)
        return None

    def _known(self) -> dict[str, Any]:
        """Each frame is a request of its own: its trace, its time, its headers."""
        trace = Trace.of_header(None)
        return {
            "trace": trace,
            "trace_id": trace.trace_id,
            "arrived": time.perf_counter(),
            "key": self._socket.state.key,
            "headers": {},
        }

    async def _work(self, frame: str, state: State) -> None:
        try:
            body = GenerateBody.model_validate_json(frame)
        except ValidationError as error:
            raise unfit.of_body(error.errors(), GenerateBody) from None
        visit = Visit.of(state, "stream", body)

        async def hear(text: str, index: int) -> None:
            await self._send("token", piece(body, text, index))

        work = Generation(body)
        async with self._desk.books.accounted(visit):
            try:
                answering = await admitted(self._desk, visit, body, work, streaming=True)
                await stream.in_time(answer(answering, work, hear), answering.left_s)
            except asyncio.CancelledError:
                if self._stopped:
                    raise
                raise ClientGone("the client closed the connection") from None
            await self._desk.books.close(visit)
        await self._send("done", done(visit, work))

    async def _send(self, event: str, data: BaseModel | dict[str, Any]) -> None:
        told = data.model_dump(mode="json") if isinstance(data, BaseModel) else data
        frame = canonical_json({"event": event, "data": told}).decode()
        try:
            async with asyncio.timeout(stream.PATIENCE_S):
                await self._socket.send_text(frame)
        except TimeoutError:
            self._slow = True
            raise ClientGone("the client stopped reading") from None
        except (RuntimeError, WebSocketDisconnect):
            raise ClientGone("the client closed the connection") from None


async def _cancelled(working: "asyncio.Future[None]") -> None:
    working.cancel()
    await asyncio.gather(working, return_exceptions=True)
