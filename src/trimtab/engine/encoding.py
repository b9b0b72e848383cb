"""The `Engine` protocol over an encoder: it makes embeddings, and nothing else."""

import asyncio
from collections.abc import AsyncGenerator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from queue import PriorityQueue

import trimtab
from trimtab.embed.encoder import Encoder
from trimtab.engine.faults import unexpected
from trimtab.engine.jobs import PRIORITIES
from trimtab.errors import (
    EngineOverloaded,
    EngineUnavailable,
    IdentityError,
    RequestRefused,
    TrimtabError,
)
from trimtab.inference import (
    Capabilities,
    Chunk,
    EmbedRequest,
    GenerateRequest,
    Runtime,
    Score,
    ScoreRequest,
    Vector,
    VersionFiles,
)
from trimtab.registry import encoders

MAX_WAITING = 256
MAX_INPUTS = 2048


@dataclass(order=True, slots=True)
class Waiting:
    """A request that waits: by its priority first, then by when it came."""

    priority: int
    number: int
    inputs: tuple[tuple[int, ...], ...] = field(compare=False)
    done: Future[list[Vector]] = field(compare=False, default_factory=Future)


class EncoderEngine:
    """The encoder of a folder in this process, one request computed at a time."""

    def __init__(self, folder: Path) -> None:
        known = encoders.read(folder, folder.name)
        self._hash, self._max_tokens = known.hash, known.max_tokens
        self._encoder = Encoder(folder)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="encoder")
        self._queue: PriorityQueue[Waiting] = PriorityQueue()
        self._numbers = count()
        self._waiting = 0
        self._closed = False

    async def capabilities(self) -> Capabilities:
        runtime = Runtime("trimtab", trimtab.__version__, "cpu", "float32")
        return Capabilities(runtime, self._max_tokens, MAX_INPUTS, {}, priority=True)

    async def embed(self, request: EmbedRequest) -> list[Vector]:
        if request.encoder != self._hash:
            raise IdentityError(
                f"encoder {request.encoder[:12]} was asked for, this engine holds {self._hash[:12]}"
            )
        self._check(request)
        if self._closed:
            raise EngineUnavailable("the engine is stopping", hint="try again in a moment")
        if self._waiting >= MAX_WAITING:
            raise EngineOverloaded(f"{self._waiting} requests are waiting", hint="try again later")
        self._waiting += 1
        try:
            rank = PRIORITIES.index(request.priority)
            waiting = Waiting(rank, next(self._numbers), request.inputs)
            self._queue.put(waiting)
            self._thread.submit(self._compute_next)
            return await asyncio.wrap_future(waiting.done)
        except TrimtabError:
            raise
        except Exception as error:
            raise unexpected(error) from error
        finally:
            self._waiting -= 1

    def _compute_next(self) -> None:
        """In the thread, once for each request: whichever goes first by now."""
        waiting = self._queue.get_nowait()
        # One that is cancelled while it waits is never computed.
        if not waiting.done.set_running_or_notify_cancel():
            return
        try:
            waiting.done.set_result(self._encoder.encode(waiting.inputs))
        except BaseException as error:
            waiting.done.set_exception(error)

    def _check(self, request: EmbedRequest) -> None:
        if not 1 <= len(request.inputs) <= MAX_INPUTS:
            raise RequestRefused(f"{len(request.inputs)} inputs; 1 to {MAX_INPUTS} go together")
        for tokens in request.inputs:
            if not 1 <= len(tokens) <= self._max_tokens:
                raise RequestRefused(
                    f"an input of {len(tokens)} tokens; the encoder reads 1 to {self._max_tokens}"
                )
            if not all(0 <= token < self._encoder.vocabulary for token in tokens):
                raise RequestRefused("a token is not in the encoder's vocabulary")

    async def load(self, files: VersionFiles) -> None:
        raise _refused()

    async def unload(self, version: str) -> None:
        raise _refused()

    async def generate(self, request: GenerateRequest) -> AsyncGenerator[Chunk, None]:
        raise _refused()
        yield  # this makes it the generator that the protocol asks for

    async def score(self, request: ScoreRequest) -> list[Score]:
        raise _refused()

    def alive(self) -> bool:
        """Nothing of it can end by itself."""
        return True

    async def drain(self, deadline_s: float) -> None:
        """Admit nothing more and finish what was admitted; cancel the rest at the deadline."""
        self._closed = True
        stopping = asyncio.to_thread(self._thread.shutdown, wait=True)
        try:
            await asyncio.wait_for(stopping, deadline_s)
        except TimeoutError:
            self._thread.shutdown(wait=False, cancel_futures=True)
            while not self._queue.empty():
                self._queue.get_nowait().done.cancel()


def _refused() -> RequestRefused:
    return RequestRefused("this engine holds an encoder: it makes embeddings alone")
