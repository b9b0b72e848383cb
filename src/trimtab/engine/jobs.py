"""What is asked of the computing thread, and where its results go. No tensors."""

import asyncio
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from trimtab.engine.sampling.grammar import Grammar
from trimtab.inference import GenerateRequest, Priority, ScoreRequest

PRIORITIES: tuple[Priority, ...] = ("interactive", "batch", "shadow")
"""Who goes first when not all can."""


class _Held(threading.local):
    letters: "list[tuple[Mailbox, Any]] | None" = None


_held = _Held()


@contextmanager
def together() -> Iterator[None]:
    """What this thread puts into mailboxes meanwhile arrives at the end, in its order: each time
    that an event loop is woken it takes the interpreter from the thread that computes.
    """
    letters: list[tuple[Mailbox, Any]] = []
    _held.letters = letters
    try:
        yield
    finally:
        _held.letters = None
        loops: dict[asyncio.AbstractEventLoop, list[tuple[Mailbox, Any]]] = {}
        for letter in letters:
            loops.setdefault(letter[0].loop, []).append(letter)
        for loop, its in loops.items():
            _send(loop, its)


def _send(loop: asyncio.AbstractEventLoop, letters: "Sequence[tuple[Mailbox, Any]]") -> None:
    """An event loop that ended takes nothing more."""
    if not loop.is_closed():
        loop.call_soon_threadsafe(_arrive, letters)


def _arrive(letters: "Sequence[tuple[Mailbox, Any]]") -> None:
    for mailbox, item in letters:
        mailbox.arrive(item)


class Mailbox:
    """Carries results from the computing thread to the event loop that waits for them."""

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self._items: asyncio.Queue[Any] = asyncio.Queue()

    def put(self, item: Any) -> None:
        """From any thread; see `together`."""
        if _held.letters is None:
            _send(self.loop, [(self, item)])
        else:
            _held.letters.append((self, item))

    def arrive(self, item: Any) -> None:
        """In the event loop that waits."""
        self._items.put_nowait(item)

    async def get(self) -> Any:
        """The next item; an exception among them is raised."""
        item = await self._items.get()
        if isinstance(item, Exception):
            raise item
        return item


@dataclass(eq=False, slots=True)
class GenerateJob:
    """`cancelled` is set from any thread and seen at the next step. `grammar` is that of the
    request's schema.
    """

    request: GenerateRequest
    mailbox: Mailbox = field(default_factory=Mailbox)
    cancelled: bool = False
    arrived: float = field(default_factory=time.monotonic)
    grammar: Grammar | None = None

    rows = 1

    @property
    def width(self) -> int:
        return len(self.request.prompt) + self.request.sampling.max_tokens


@dataclass(eq=False, slots=True)
class ScoreJob:
    request: ScoreRequest
    mailbox: Mailbox = field(default_factory=Mailbox)
    cancelled: bool = False
    arrived: float = field(default_factory=time.monotonic)

    @property
    def rows(self) -> int:
        return len(self.request.completions)

    @property
    def width(self) -> int:
        longest = max((len(completion) for completion in self.request.completions), default=0)
        return len(self.request.prompt) + longest


@dataclass(eq=False, slots=True)
class Command:
    """Work on a version, in the order in which it was asked for."""

    version: str
    work: Callable[[], None]
    leaves: bool
    """Whether the version goes: then it waits for the answers that are being computed with it."""
    mailbox: Mailbox = field(default_factory=Mailbox)
    cancelled: bool = False


Job = GenerateJob | ScoreJob


def stop(job: Job, error: Exception) -> None:
    """Let nothing more be computed for a job. An answer ends with what came so far; of a score
    there are no parts, so `error` is its answer.
    """
    if not job.cancelled and isinstance(job, ScoreJob):
        job.mailbox.put(error)
    job.cancelled = True
