"""The `Engine` protocol over the paths that compute: a thread computes, event loops wait.

Knows nothing of sockets; `server` puts it behind one.
"""

import asyncio
import time
from collections.abc import AsyncGenerator, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

import torch

import trimtab
from trimtab.engine.admission import check_generate, check_score
from trimtab.engine.backlog import Backlog
from trimtab.engine.dtype import dtype_name, pick_device, pick_dtype
from trimtab.engine.faults import first_line
from trimtab.engine.general.layout import MAX_BATCH
from trimtab.engine.jobs import Command, GenerateJob, Job, ScoreJob
from trimtab.engine.pace import Pace
from trimtab.engine.sampling.grammar import Grammars
from trimtab.engine.trials import Trials
from trimtab.engine.versions import AnyPath, Quantisation, Versions
from trimtab.engine.worker import Worker
from trimtab.errors import EngineError, RequestRefused
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

MIXED = ("full", "lora", "dora")
"""Methods that the fast path computes, where the base is of a family that it knows."""
ALONE = ("ia3", "prompt_tuning", "prefix_tuning", "bottleneck")
POLL_S = 0.05


class LocalEngine:
    """An engine of one base in this process. `drain` it or `close` it when it is done."""

    def __init__(
        self,
        base: Path,
        dtype: torch.dtype | None = None,
        device: torch.device | None = None,
        quantisation: Quantisation = "none",
    ) -> None:
        """Raises EngineError where a quantisation is not fit for the machine or the base, and where
        the device has no memory for the base.
        """
        device = device or pick_device()
        dtype = dtype or pick_dtype(device)
        self._versions = _opened(base, dtype, device, quantisation)
        self._fast = self._versions.fast
        self.context, self.vocabulary = self._versions.context, self._versions.vocabulary
        self.runtime = Runtime(
            "trimtab", trimtab.__version__, device.type, dtype_name(dtype), quantisation
        )
        self._backlog = Backlog(Pace() if self._fast is None else self._fast.pace)
        self._grammars = Grammars(self.vocabulary)
        self._trials = Trials(self._versions.held, self._take, self._drop, self._scores)
        self._worker = Worker(self._versions)

    async def capabilities(self) -> Capabilities:
        fast = self._fast is not None
        return Capabilities(
            self.runtime,
            self.context,
            MAX_BATCH if self._fast is None else self._fast.running,
            dict.fromkeys(MIXED, "mixed" if fast else "alone") | dict.fromkeys(ALONE, "alone"),
            prefix_cache=fast,
            priority=True,
            grammar=True,
            merged=True,
            kernels=None if self._fast is None else self._fast.ops.level,
        )

    async def load(self, files: VersionFiles) -> None:
        await self._trials.load(files, self.runtime)

    async def _take(self, files: VersionFiles) -> None:
        if self._versions.knows(files):
            return
        # What takes seconds is not done in the computing thread, which has answers to go on with.
        ready = await asyncio.to_thread(self._versions.prepare, files)
        load = Command(files.version, lambda: self._versions.load(files, ready), leaves=False)
        await self._worker.obey(load)

    async def unload(self, version: str) -> None:
        await self._trials.unload(version)

    async def _drop(self, version: str) -> None:
        await self._worker.obey(Command(version, lambda: self._unload(version), leaves=True))

    def _unload(self, version: str) -> None:
        self._versions.unload(version)
        self._trials.forget(version)

    async def generate(self, request: GenerateRequest) -> AsyncGenerator[Chunk, None]:
        self._trials.check(request.version)
        held = self._versions.of(request.version)
        check_generate(request, held.context, self.vocabulary)
        grammar, schema = None, request.sampling.schema
        if schema is not None:
            grammar = await self._grammars.of(held.files, schema)
        job = GenerateJob(request, grammar=grammar)
        await self._page_in(request.version)
        # Another may have come under this name meanwhile, and be on trial still.
        self._trials.check(request.version)
        held = self._versions.of(request.version)
        with self._admitted(job, held.path):
            while True:
                chunk: Chunk = await job.mailbox.get()
                yield chunk
                if chunk.finish_reason is not None:
                    return

    async def score(self, request: ScoreRequest) -> list[Score]:
        self._trials.check(request.version)
        await self._page_in(request.version)
        self._trials.check(request.version)
        return await self._scores(request)

    async def _scores(self, request: ScoreRequest) -> list[Score]:
        held = self._versions.of(request.version)
        check_score(request, held.context, self.vocabulary)
        job = ScoreJob(request)
        await self._page_in(request.version)
        with self._admitted(job, held.path):
            scores: list[Score] = await job.mailbox.get()
            return scores

    async def _page_in(self, version: str) -> None:
        """An adapter that is not in memory is read beside the computing thread."""
        if self._fast is not None and self._fast.lacks(version):
            await asyncio.to_thread(self._fast.page_in, version)

    async def embed(self, request: EmbedRequest) -> list[Vector]:
        raise RequestRefused("this engine holds a base, which makes no embeddings")

    async def drain(self, deadline_s: float) -> None:
        """Admit nothing more and finish what was admitted; cancel the rest at the deadline."""
        self._close()
        deadline = time.monotonic() + deadline_s
        while self._worker.alive and time.monotonic() < deadline:
            await asyncio.sleep(POLL_S)
        self._worker.stop()
        await asyncio.to_thread(self._worker.join)

    def close(self) -> None:
        """Stop at the next step of whatever is computed."""
        self._close()
        self._worker.stop()
        self._worker.join()

    def alive(self) -> bool:
        """Whether it still computes; a fault of the computing thread ends that before `close`."""
        return self._worker.alive

    def _close(self) -> None:
        self._grammars.close()
        self._worker.close()

    @contextmanager
    def _admitted(self, job: Job, path: AnyPath) -> Iterator[None]:
        """Until the caller leaves. Raises as `Worker.add` does, and EngineOverloaded where the
        answer would come too late; on the general path only once it has.
        """
        with self._backlog.holding(job) if path is self._fast else nullcontext():
            self._worker.add(job)
            try:
                yield
            finally:
                job.cancelled = True


def _opened(
    base: Path, dtype: torch.dtype, device: torch.device, quantisation: Quantisation
) -> Versions:
    try:
        return Versions(base, dtype, device, quantisation)
    except torch.OutOfMemoryError as error:
        raise EngineError(
            f"{base}: the device has no memory for it: {first_line(error)}",
            hint="stop what else uses the device, or serve a smaller base",
        ) from error
