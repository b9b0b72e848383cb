"""A proxy between a gateway and its engine that breaks the connection in every way a network can.

`fault` may change at any time; it holds for what comes from then on. Loads and descriptions pass
unharmed but where nothing does ("refuse", and "mute", which accepts and never says a word), so that
a fault hits the answers themselves.
"""

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from trimtab.engine.wire.protocol import MAX_FRAME

Fault = Literal[
    "none",
    "refuse",
    "mute",
    "silent",
    "dribble",
    "half close",
    "reset mid-stream",
    "garbage",
    "truncated",
    "html",
    "error storm",
    "overloaded",
    "busy for an hour",
    "foreign frame",
    "duplicate end",
]

HTML = b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n\r\n<html>Welcome to nginx!</html>\n"


@dataclass
class Proxy:
    """`calls` counts the generate calls that came in, whatever became of them."""

    listen: Path
    engine: Path
    fault: Fault = "none"
    byte_s: float = 1.0
    calls: int = 0
    open: int = 0
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)

    @asynccontextmanager
    async def running(self) -> AsyncIterator["Proxy"]:
        server = await asyncio.start_unix_server(self._accept, self.listen, limit=MAX_FRAME)
        try:
            yield self
        finally:
            server.close()
            for task in list(self._tasks):
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self.open += 1
        try:
            if self.fault == "refuse":
                self.calls += 1
                self._reset(writer)
                return
            with suppress(OSError):
                await self._between(reader, writer)
        finally:
            self.open -= 1
            self._tasks.discard(task)
            writer.close()

    async def _between(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, thither = await asyncio.open_unix_connection(self.engine, limit=MAX_FRAME)
        generating: set[str] = set()
        both = (
            asyncio.create_task(self._forth(reader, thither, generating)),
            asyncio.create_task(self._back(there, writer, generating)),
        )
        try:
            await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in both:
                task.cancel()
            await asyncio.gather(*both, return_exceptions=True)
            thither.close()

    async def _forth(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, generating: set[str]
    ) -> None:
        while line := await reader.readline():
            if self.fault == "mute":
                continue
            call = json.loads(line)
            if call["kind"] in ("generate", "score"):
                self.calls += 1
                generating.add(call["id"])
                if self.fault == "silent":
                    continue
            writer.write(line)
            await writer.drain()

    async def _back(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, generating: set[str]
    ) -> None:
        answered = 0
        while line := await reader.readline():
            reply = json.loads(line)
            if reply["id"] in generating and self.fault != "none":
                answered += 1
                if not await self._harm(line, reply, answered, writer):
                    return
                continue
            writer.write(line)
            await writer.drain()

    async def _harm(
        self, line: bytes, reply: dict[str, object], number: int, writer: asyncio.StreamWriter
    ) -> bool:
        """Send a line as the fault has it; False where the connection ends with it."""
        match self.fault:
            case "dribble":
                for byte in line:
                    writer.write(bytes([byte]))
                    await writer.drain()
                    await asyncio.sleep(self.byte_s)
            case "half close":
                writer.write_eof()
                await asyncio.sleep(3600)
            case "reset mid-stream":
                if number > 2:
                    self._reset(writer)
                    return False
                writer.write(line)
            case "garbage":
                writer.write(b"\x00\xff\xfe garbage \x80\n")
            case "truncated":
                writer.write(line[: len(line) // 2] + b"\n")
            case "html":
                writer.write(HTML)
            case "error storm" | "overloaded" | "busy for an hour":
                kind = "EngineUnavailable" if self.fault == "error storm" else "EngineOverloaded"
                failed = {"id": reply["id"], "error": kind, "message": "503", "kind": "failed"}
                wait = {"retry_s": 3600} if self.fault == "busy for an hour" else {}
                writer.write(json.dumps(failed | wait).encode() + b"\n")
            case "foreign frame":
                writer.write(json.dumps({"id": reply["id"], "kind": "done"}).encode() + b"\n")
            case "duplicate end":
                writer.write(line * 2 if '"finish_reason":null' not in line.decode() else line)
        await writer.drain()
        return True

    def _reset(self, writer: asyncio.StreamWriter) -> None:
        """Go without a word: what was not read is lost."""
        made = writer.get_extra_info("socket")
        with suppress(OSError):
            made.shutdown(socket.SHUT_RDWR)
        writer.transport.abort()
