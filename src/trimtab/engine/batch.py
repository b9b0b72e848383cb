"""Requests that wait, and which of them are computed together. Pure bookkeeping, no tensors."""

import asyncio
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from trimtab.errors import EngineOverloaded, EngineUnavailable
from trimtab.inference import GenerateRequest, ScoreRequest

MAX_BATCH = 16
MAX_BATCH_TOKENS = 8192
"""Rows times the longest of them, the answer to come included."""
MAX_WAITING = 256

# An idle engine lets the companions of a first request arrive before it closes the batch.
GATHER_S = 0.01


class Mailbox:
    """Carries results from the computing thread to the event loop that waits for them."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._items: asyncio.Queue[Any] = asyncio.Queue()

    def put(self, item: Any) -> None:
        """From any thread. An event loop that ended takes nothing more."""
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._items.put_nowait, item)

    async def get(self) -> Any:
        """The next item; an exception among them is raised."""
        item = await self._items.get()
        if isinstance(item, Exception):
            raise item
        return item


@dataclass(eq=False, slots=True)
class GenerateJob:
    request: GenerateRequest
    mailbox: Mailbox = field(default_factory=Mailbox)
    cancelled: bool = False

    rows = 1

    @property
    def width(self) -> int:
        return len(self.request.prompt) + self.request.sampling.max_tokens


@dataclass(eq=False, slots=True)
class ScoreJob:
    request: ScoreRequest
    mailbox: Mailbox = field(default_factory=Mailbox)
    cancelled: bool = False

    @property
    def rows(self) -> int:
        return len(self.request.completions)

    @property
    def width(self) -> int:
        longest = max((len(completion) for completion in self.request.completions), default=0)
        return len(self.request.prompt) + longest


@dataclass(eq=False, slots=True)
class Command:
    """Work of its own: never in a batch, and never overtaken."""

    work: Callable[[], None]
    mailbox: Mailbox = field(default_factory=Mailbox)
    cancelled: bool = False


Job = GenerateJob | ScoreJob | Command


class Waiting:
    """A bounded queue between the event loops and the one computing thread."""

    def __init__(self) -> None:
        self._jobs: list[Job] = []
        self._changed = threading.Condition()
        self._closed = False

    def add(self, job: Job) -> None:
        """Raises EngineOverloaded when the queue is full, EngineUnavailable after `close`."""
        with self._changed:
            if self._closed:
                raise EngineUnavailable("the engine is stopping", hint="try again in a moment")
            if len(self._jobs) >= MAX_WAITING:
                raise EngineOverloaded(
                    f"{len(self._jobs)} requests are waiting already", hint="try again later"
                )
            self._jobs.append(job)
            self._changed.notify()

    def abandon(self, job: Job) -> None:
        """Nobody wants the job any more: leave the queue, or the batch at its next step."""
        with self._changed:
            job.cancelled = True
            if job in self._jobs:
                self._jobs.remove(job)

    def close(self) -> None:
        """Let nothing more in; `take` goes on until the queue is empty."""
        with self._changed:
            self._closed = True
            self._changed.notify()

    def clear(self) -> list[Job]:
        """Empty the queue; returns what was in it."""
        with self._changed:
            jobs, self._jobs = self._jobs, []
        return jobs

    def take(self) -> list[Job]:
        """The next jobs to compute together; waits for some. Empty once closed and drained."""
        while True:
            with self._changed:
                idle = not self._jobs
                while not self._jobs and not self._closed:
                    self._changed.wait()
            if idle:
                time.sleep(GATHER_S)
            with self._changed:
                chosen = group(self._jobs)
                self._jobs = [job for job in self._jobs if job not in chosen]
                if chosen or self._closed:
                    return chosen


def group(jobs: Sequence[Job]) -> list[Job]:
    """The first job and those that can join it: of its kind and version, within the bounds.

    The first is always taken, so nobody waits for ever, and no job overtakes a command.
    """
    if not jobs or isinstance(jobs[0], Command):
        return list(jobs[:1])
    first = jobs[0]
    chosen: list[Job] = []
    rows = width = 0
    for job in jobs:
        if isinstance(job, Command):
            break
        if type(job) is not type(first) or job.request.version != first.request.version:
            continue
        more, wider = rows + job.rows, max(width, job.width)
        if not chosen or (more <= MAX_BATCH and more * wider <= MAX_BATCH_TOKENS):
            chosen.append(job)
            rows, width = more, wider
    return chosen
