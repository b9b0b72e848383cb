"""The fake upstream of the gateway benchmark: OpenAI's protocol over HTTP, and the engine's own.

python -m benchmarks.gateway.upstream PORT SOCKET

Both faces give an answer of the same length, after the delay that the prompt names
(`delay=MS`, or the seed in milliseconds), so that gateways differ and their upstream does not.
"""

import asyncio
import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import cast

import uvloop

from trimtab.engine.wire.protocol import Described, Done, Generated, encode_reply
from trimtab.inference import Capabilities, Chunk, Runtime, Usage

WORDS = 16
ABLE = Capabilities(Runtime("fake", "1", "cpu", "float32"), 4096, 64, {"lora": "mixed"})
CHUNKS = [
    *(Chunk("yes ", (number,), (-0.5,)) for number in range(WORDS)),
    Chunk("", (), (), "stop", Usage(20, WORDS)),
]
# The frames of an answer but for the call that they belong to, made once: the upstream is no part
# of what is measured.
MARK = "@call@"
FRAMES = b"".join(encode_reply(Generated(MARK, chunk)) for chunk in CHUNKS)
DELAY = re.compile(rb"delay=(\d+)")


def delay_s(text: bytes) -> float:
    found = DELAY.search(text)
    return int(found[1]) / 1000 if found else 0.0


def _whole() -> bytes:
    answer = {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1,
        "model": "fake",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": "yes " * WORDS},
                "finish_reason": "stop",
            }
        ],
        "usage": {"prompt_tokens": 20, "completion_tokens": WORDS, "total_tokens": 20 + WORDS},
    }
    body = json.dumps(answer).encode()
    head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
    return head % len(body) + body


def _stream() -> bytes:
    pieces: list[dict[str, str]] = [{"role": "assistant", "content": ""}]
    pieces += [{"content": "yes "}] * WORDS
    events = [_event(piece, None) for piece in pieces] + [_event({}, "stop"), b"data: [DONE]\n\n"]
    head = (
        b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
    )
    return head + b"".join(b"%x\r\n%b\r\n" % (len(event), event) for event in events) + b"0\r\n\r\n"


def _event(delta: dict[str, str], reason: str | None) -> bytes:
    chunk = {
        "id": "chatcmpl-1",
        "object": "chat.completion.chunk",
        "created": 1,
        "model": "fake",
        "choices": [{"index": 0, "delta": delta, "finish_reason": reason}],
    }
    return b"data: " + json.dumps(chunk).encode() + b"\n\n"


WHOLE, STREAM = _whole(), _stream()


class OpenAIFace(asyncio.Protocol):
    """Just enough of HTTP/1.1: requests with a Content-Length, one after another."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._buffer = b""

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        while (end := self._buffer.find(b"\r\n\r\n")) >= 0:
            head = self._buffer[:end].lower()
            match = re.search(rb"content-length: *(\d+)", head)
            length = int(match[1]) if match else 0
            if len(self._buffer) < end + 4 + length:
                return
            body = self._buffer[end + 4 : end + 4 + length]
            self._buffer = self._buffer[end + 4 + length :]
            loop = asyncio.get_running_loop()
            wait = delay_s(body)
            reply: Callable[[], None] = (
                self._stream if b'"stream":true' in body.replace(b" ", b"") else self._whole
            )
            if wait:
                loop.call_later(wait, reply)
            else:
                reply()

    def _whole(self) -> None:
        self._transport.write(WHOLE)

    def _stream(self) -> None:
        self._transport.write(STREAM)


async def engine_face(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """The frames of `engine.wire.protocol`. Prompts are tokens, so the seed names a delay."""
    waiting: set[asyncio.Task[None]] = set()
    while line := await reader.readline():
        call = json.loads(line)
        if call["kind"] == "generate":
            wait = (call["request"]["sampling"]["seed"] or 0) / 1000
            task = asyncio.create_task(_generate(call["id"], wait, writer))
            waiting.add(task)
            task.add_done_callback(waiting.discard)
        elif call["kind"] == "describe":
            writer.write(encode_reply(Described(call["id"], ABLE)))
        elif call["kind"] in ("load", "unload"):
            writer.write(encode_reply(Done(call["id"])))
    writer.close()


async def _generate(call: str, wait: float, writer: asyncio.StreamWriter) -> None:
    if wait:
        await asyncio.sleep(wait)
    writer.write(FRAMES.replace(MARK.encode(), call.encode()))


async def serve(port: int, socket: Path) -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(OpenAIFace, "127.0.0.1", port, backlog=1024)
    async with server, await asyncio.start_unix_server(engine_face, socket, limit=2**24):
        print("ready", flush=True)
        await asyncio.Event().wait()


if __name__ == "__main__":
    uvloop.run(serve(int(sys.argv[1]), Path(sys.argv[2])))
