"""The client: OpenAI's completions route, streamed, over plain HTTP/1.1. The same for all systems.

A closed loop keeps so many requests in flight; an open loop sends at a fixed rate, whatever comes
back, and counts each latency from the moment the request was due (no coordinated omission).
"""

import asyncio
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Face:
    """Where a system listens, and the fields that it wants beside the common ones."""

    port: int
    model: str
    key: str = "none"
    more: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Answer:
    """Seconds from the moment it was due. `tokens` and `prompt` as the server counts them, 0 where
    it does not tell; `status` is that of HTTP, 0 where the connection broke. `gaps` are the
    pauses of a stream between its events.
    """

    status: int
    ttft: float
    latency: float
    tokens: int
    prompt: int
    gaps: Sequence[float] = ()


async def ask(face: Face, prompt: str, tokens: int, due: float) -> Answer:
    body = {
        "model": face.model,
        "prompt": prompt,
        "max_tokens": tokens,
        "temperature": 0,
        "stream": True,
        "stream_options": {"include_usage": True},
        **face.more,
    }
    try:
        return await _ask(face, json.dumps(body).encode(), due)
    except (OSError, asyncio.IncompleteReadError, ValueError):
        return Answer(0, 0.0, time.perf_counter() - due, 0, 0)


async def _ask(face: Face, body: bytes, due: float) -> Answer:
    reader, writer = await asyncio.open_connection("127.0.0.1", face.port, limit=2**22)
    try:
        writer.write(
            b"POST /v1/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n"
            + f"Authorization: Bearer {face.key}\r\nContent-Type: application/json\r\n".encode()
            + f"Content-Length: {len(body)}\r\n\r\n".encode()
            + body
        )
        head = await reader.readuntil(b"\r\n\r\n")
        status = int(head.split(b" ", 2)[1])
        first, usage = 0.0, {}
        gaps: list[float] = []
        last = 0.0
        while status == 200 and (line := await reader.readline()):
            # The sizes of HTTP's chunks stand on lines of their own.
            if not line.startswith(b"data:") or line.startswith(b"data: [DONE]"):
                continue
            now = time.perf_counter()
            if first:
                gaps.append(now - last)
            last = now
            if not first or b'"usage"' in line:
                event = json.loads(line[5:])
                usage = event.get("usage") or usage
                if not first and any(choice.get("text") for choice in event.get("choices", ())):
                    first = now - due
        latency = time.perf_counter() - due
        tokens = int(usage.get("completion_tokens", 0))
        prompt = int(usage.get("prompt_tokens", 0))
        return Answer(status, first or latency, latency, tokens, prompt, gaps)
    finally:
        writer.close()


@dataclass(frozen=True, slots=True)
class Result:
    answers: Sequence[Answer]
    seconds: float

    @property
    def whole(self) -> list[Answer]:
        return [answer for answer in self.answers if answer.status == 200 and answer.tokens]

    @property
    def tokens_s(self) -> float:
        return sum(answer.tokens for answer in self.whole) / self.seconds


Ask = tuple[Face, str]


async def closed(asks: Sequence[Ask], concurrency: int, tokens: int, limit_s: float) -> Result:
    """All of `asks`, so many at once; after `limit_s` what is not answered is given up."""
    waiting = list(reversed(asks))
    answers: list[Answer] = []
    began = time.perf_counter()

    async def worker() -> None:
        while waiting:
            face, prompt = waiting.pop()
            answers.append(await ask(face, prompt, tokens, time.perf_counter()))

    workers = [asyncio.create_task(worker()) for _ in range(concurrency)]
    await asyncio.wait(workers, timeout=limit_s)
    for task in workers:
        task.cancel()
    await asyncio.gather(*workers, return_exceptions=True)
    lost = [Answer(0, limit_s, limit_s, 0, 0)] * (len(asks) - len(answers))
    return Result([*answers, *lost], time.perf_counter() - began)


async def opened(
    make: Callable[[], Ask], rate: float, seconds: float, tokens: int, patience_s: float
) -> Result:
    """`rate` requests a second for a while; what is not over `patience_s` after the end, failed."""
    running: list[asyncio.Task[Answer]] = []
    began = time.perf_counter()
    for number in range(max(1, int(rate * seconds))):
        due = began + number / rate
        await asyncio.sleep(max(0.0, due - time.perf_counter()))
        face, prompt = make()
        running.append(asyncio.create_task(ask(face, prompt, tokens, due)))
    done, late = await asyncio.wait(running, timeout=patience_s)
    for task in late:
        task.cancel()
    lost = [Answer(0, patience_s, patience_s, 0, 0)] * len(late)
    return Result([*(task.result() for task in done), *lost], time.perf_counter() - began)
