"""The `Engine` protocol over a general path: one thread computes, event loops wait.

Knows nothing of sockets; `server` puts it behind one.
"""

import asyncio
import logging
import threading
import time
import traceback
from collections.abc import AsyncGenerator, Callable, Sequence
from itertools import islice

from trimtab.engine.admission import check_generate, check_score
from trimtab.engine.batch import Command, GenerateJob, Job, ScoreJob, Waiting
from trimtab.engine.general import GeneralPath
from trimtab.engine.load import first_line
from trimtab.errors import EngineError, EngineUnavailable, TrimtabError
from trimtab.inference import (
    Capabilities,
    Chunk,
    GenerateRequest,
    Score,
    ScoreRequest,
    VersionFiles,
)

log = logging.getLogger(__name__)

POLL_S = 0.05


class LocalEngine:
    """An engine in this process. `drain` it or `close` it when it is done."""

    def __init__(self, path: GeneralPath) -> None:
        self._path = path
        self._waiting = Waiting()
        self._running: Sequence[Job] = ()
        self._thread = threading.Thread(target=self._work, name="engine", daemon=True)
        self._thread.start()

    async def capabilities(self) -> Capabilities:
        return self._path.capabilities()

    async def load(self, files: VersionFiles) -> None:
        await self._command(lambda: self._path.load(files))

    async def unload(self, version: str) -> None:
        await self._command(lambda: self._path.unload(version))

    async def generate(self, request: GenerateRequest) -> AsyncGenerator[Chunk, None]:
        self._path.check(request.version)
        check_generate(request, self._path.context, self._path.vocabulary)
        job = GenerateJob(request)
        self._waiting.add(job)
        try:
            while True:
                chunk: Chunk = await job.mailbox.get()
                yield chunk
                if chunk.finish_reason is not None:
                    return
        finally:
            self._waiting.abandon(job)

    async def score(self, request: ScoreRequest) -> list[Score]:
        self._path.check(request.version)
        check_score(request, self._path.context, self._path.vocabulary)
        job = ScoreJob(request)
        self._waiting.add(job)
        try:
            scores: list[Score] = await job.mailbox.get()
            return scores
        finally:
            self._waiting.abandon(job)

    async def drain(self, deadline_s: float) -> None:
        """Admit nothing more and finish what was admitted; cancel the rest at the deadline."""
        self._waiting.close()
        deadline = time.monotonic() + deadline_s
        while self._thread.is_alive() and time.monotonic() < deadline:
            await asyncio.sleep(POLL_S)
        self._cancel_all()
        await asyncio.to_thread(self._thread.join)

    def close(self) -> None:
        """Stop at the next step of whatever is computed."""
        self._waiting.close()
        self._cancel_all()
        self._thread.join()

    def _cancel_all(self) -> None:
        for job in self._waiting.clear():
            job.mailbox.put(EngineUnavailable("the engine stopped", hint="try again in a moment"))
        for job in self._running:
            job.cancelled = True

    async def _command(self, work: Callable[[], None]) -> None:
        job = Command(work)
        self._waiting.add(job)
        try:
            await job.mailbox.get()
        finally:
            self._waiting.abandon(job)

    def _work(self) -> None:
        """The computing thread: batch after batch. What fails, fails for its own batch alone."""
        while jobs := self._waiting.take():
            self._running = jobs
            error: TrimtabError
            try:
                self._compute(jobs)
                continue
            except TrimtabError as known:
                error = known
            except Exception as unknown:
                error = EngineError(
                    f"the engine failed: {type(unknown).__name__}: {first_line(unknown)}",
                    hint="this is a fault of ours; its log says where",
                )
                place = traceback.extract_tb(unknown.__traceback__)[-1]
                log.error("%s at %s:%s", error.message, place.filename, place.lineno)
            for job in jobs:
                job.mailbox.put(error)

    def _compute(self, jobs: Sequence[Job]) -> None:
        """All jobs are of the kind of the first, see `batch.group`."""
        match jobs[0]:
            case Command() as command:
                command.work()
                command.mailbox.put(None)
            case GenerateJob():
                self._generate([job for job in jobs if isinstance(job, GenerateJob)])
            case ScoreJob():
                self._score([job for job in jobs if isinstance(job, ScoreJob)])

    def _generate(self, jobs: Sequence[GenerateJob]) -> None:
        self._path.generate(
            jobs[0].request.version,
            [job.request for job in jobs],
            wanted=lambda i: not jobs[i].cancelled,
            give=lambda i, chunk: jobs[i].mailbox.put(chunk),
        )

    def _score(self, jobs: Sequence[ScoreJob]) -> None:
        rows = [
            (job.request.prompt, completion)
            for job in jobs
            for completion in job.request.completions
        ]
        scores = iter(self._path.score(jobs[0].request.version, rows))
        for job in jobs:
            job.mailbox.put(list(islice(scores, job.rows)))
