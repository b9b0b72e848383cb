"""The fake upstream of the gateway benchmark: OpenAI's protocol over HTTP, and the engine's own.

python -m benchmarks.gateway_upstream PORT SOCKET

Both faces give an answer of the same length, after the delay that the prompt names
(`delay=MS`, or the seed in milliseconds), so that gateways differ and their upstream does not.
"""

import asyncio
import json
import re
import sys
from collections.abc import Callable
from pathlib import Path

import uvloop

WORDS = 16
RUNTIME = {
    "engine": "fake",
    "version": "1",
    "device": "cpu",
    "dtype": "float32",
    "quantisation": "none",
}
DELAY = re.compile(rb"delay=(\d+)")


def delay_s(text: bytes) -> float:
    found = DELAY.search(text)
    return int(found[1]) / 1000 if found else 0.0


class OpenAIFace(asyncio.Protocol):
    """Just enough of HTTP/1.1: requests with a Content-Length, one after another."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
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
        self._transport.write(
            b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
            b"Content-Length: %d\r\n\r\n%b" % (len(body), body)
        )

    def _stream(self) -> None:
        pieces = [{"role": "assistant", "content": ""}] + [{"content": "yes "}] * WORDS
        events = [self._event(piece, None) for piece in pieces] + [self._event({}, "stop")]
        body = b"".join(b"%x\r\n%b\r\n" % (len(event), event) for event in events)
        done = b"data: [DONE]\n\n"
        self._transport.write(
            b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"
            b"Transfer-Encoding: chunked\r\n\r\n%b%x\r\n%b\r\n0\r\n\r\n" % (body, len(done), done)
        )

    def _event(self, delta: dict[str, str], reason: str | None) -> bytes:
        chunk = {
            "id": "chatcmpl-1",
            "object": "chat.completion.chunk",
            "created": 1,
            "model": "fake",
            "choices": [{"index": 0, "delta": delta, "finish_reason": reason}],
        }
        return b"data: " + json.dumps(chunk).encode() + b"\n\n"


async def engine_face(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """The frames of `trimtab.engine.protocol`. Prompts are tokens, so the seed names a delay."""
    waiting: set[asyncio.Task[None]] = set()
    while line := await reader.readline():
        call = json.loads(line)
        if call["kind"] == "generate":
            wait = (call["request"]["sampling"]["seed"] or 0) / 1000
            task = asyncio.create_task(_generate(call["id"], wait, writer))
            waiting.add(task)
            task.add_done_callback(waiting.discard)
        elif call["kind"] == "describe":
            able = {"runtime": RUNTIME, "context": 4096, "max_batch": 64, "methods": ["lora"]}
            _send(writer, {"id": call["id"], "capabilities": able, "kind": "described"})
        elif call["kind"] in ("load", "unload"):
            _send(writer, {"id": call["id"], "kind": "done"})
    writer.close()


async def _generate(call: str, wait: float, writer: asyncio.StreamWriter) -> None:
    if wait:
        await asyncio.sleep(wait)
    for number in range(WORDS):
        chunk = {"text": "yes ", "tokens": [number], "logprobs": [-0.5]}
        last = {"finish_reason": None, "usage": None}
        _send(writer, {"id": call, "chunk": {**chunk, **last}, "kind": "generated"})
    end = {"text": "", "tokens": [], "logprobs": [], "finish_reason": "stop"}
    usage = {"prompt": 20, "completion": WORDS, "cached": 0}
    _send(writer, {"id": call, "chunk": {**end, "usage": usage}, "kind": "generated"})


def _send(writer: asyncio.StreamWriter, frame: dict[str, object]) -> None:
    writer.write(json.dumps(frame).encode() + b"\n")


async def serve(port: int, socket: Path) -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(OpenAIFace, "127.0.0.1", port, backlog=1024)
    async with server, await asyncio.start_unix_server(engine_face, socket, limit=2**24):
        print("ready", flush=True)
        await asyncio.Event().wait()


if __name__ == "__main__":
    uvloop.run(serve(int(sys.argv[1]), Path(sys.argv[2])))
