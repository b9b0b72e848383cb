"""The load of the gateway benchmark: plain HTTP/1.1 over kept connections, cheap enough to stay
out of the measurement.

A closed loop keeps so many requests in flight. An open loop sends at a fixed rate, whatever comes
back, and counts each latency from the moment the request was due (no coordinated omission).
"""

import asyncio
import time
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Target:
    host: str
    port: int
    request: bytes
    """Head and body, ready to send."""


def request(path: str, key: str, body: bytes) -> bytes:
    head = (
        f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {key}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


@dataclass
class Result:
    """Latencies in seconds of the answers with status 200; how many were not; SSE events seen."""

    latencies: list[float] = field(default_factory=list)
    failed: int = 0
    asked: int = 0
    events: int = 0
    seconds: float = 0.0

    @property
    def rps(self) -> float:
        return len(self.latencies) / self.seconds


class Line:
    """One connection."""

    def __init__(self, target: Target) -> None:
        self._target = target

    async def open(self) -> "Line":
        self._reader, self._writer = await asyncio.open_connection(
            self._target.host, self._target.port, limit=2**22
        )
        return self

    async def ask(self, result: Result, due: float) -> None:
        self._writer.write(self._target.request)
        head = await self._reader.readuntil(b"\r\n\r\n")
        lower = head.lower()
        if b"transfer-encoding: chunked" in lower:
            body = await self._chunks()
        else:
            at = lower.index(b"content-length:") + 15
            body = await self._reader.readexactly(int(lower[at : lower.index(b"\r\n", at)]))
        if b" 200 " in head[:16]:
            result.latencies.append(time.perf_counter() - due)
            result.events += body.count(b"data: ")
        else:
            result.failed += 1

    async def _chunks(self) -> bytes:
        found = []
        while size := int(await self._reader.readuntil(b"\r\n"), 16):
            found.append((await self._reader.readexactly(size + 2))[:-2])
        await self._reader.readexactly(2)
        return b"".join(found)

    def close(self) -> None:
        self._writer.close()


async def closed(target: Target, concurrency: int, seconds: float, most: int = 10**9) -> Result:
    """Keep `concurrency` requests in flight for a while, or until `most` were sent."""
    result = Result()
    lines = [await Line(target).open() for _ in range(concurrency)]
    started = time.perf_counter()

    async def loop(line: Line) -> None:
        while time.perf_counter() - started < seconds and result.asked < most:
            result.asked += 1
            await line.ask(result, time.perf_counter())

    await asyncio.gather(*(loop(line) for line in lines))
    result.seconds = time.perf_counter() - started
    for line in lines:
        line.close()
    return result


async def opened(target: Target, rate: float, seconds: float) -> Result:
    """Send `rate` requests a second. Gives up on what is not answered 30 s after the end."""
    result = Result()
    idle: list[Line] = []
    running: set[asyncio.Task[None]] = set()
    started = time.perf_counter()

    async def one(due: float) -> None:
        line = idle.pop() if idle else await Line(target).open()
        await line.ask(result, due)
        idle.append(line)

    for number in range(int(rate * seconds)):
        due = started + number / rate
        if (wait := due - time.perf_counter()) > 0:
            await asyncio.sleep(wait)
        task = asyncio.create_task(one(due))
        running.add(task)
        task.add_done_callback(running.discard)
    _, late = await asyncio.wait(running, timeout=30) if running else (set(), set())
    for task in late:
        task.cancel()
    result.failed += len(late)
    result.seconds = time.perf_counter() - started
    for line in idle:
        line.close()
    return result
