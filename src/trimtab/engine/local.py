"""The `Engine` protocol over the paths that compute: one thread computes, event loops wait.

Knows nothing of sockets; `server` puts it behind one.
"""

import asyncio
import threading
import time
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

import torch

import trimtab
from trimtab.engine.admission import check_generate, check_score
from trimtab.engine.backlog import Backlog
from trimtab.engine.continuous import ContinuousPath
from trimtab.engine.dtype import dtype_name, pick_device, pick_dtype
from trimtab.engine.family import read_shape
from trimtab.engine.faults import unexpected
from trimtab.engine.grammar import Grammars
from trimtab.engine.jobs import Command, GenerateJob, Job, ScoreJob
from trimtab.engine.layout import MAX_BATCH
from trimtab.engine.pace import Pace
from trimtab.engine.quantisation import int8_path
from trimtab.engine.schedule import MAX_RUNNING
from trimtab.engine.static import StaticPath
from trimtab.engine.trials import Trials
from trimtab.errors import (
    EngineError,
    EngineOverloaded,
    EngineUnavailable,
    IdentityError,
    RequestRefused,
    TrimtabError,
    VersionNotLoaded,
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

if TYPE_CHECKING:
    from trimtab.engine.general import GeneralPath, Version

MAX_WAITING = 256
MIXED = ("full", "lora", "dora")
"""Methods that the fast path computes, where the base is of a family that it knows."""
ALONE = ("ia3", "prompt_tuning", "prefix_tuning", "bottleneck")
POLL_S = 0.05

Quantisation = Literal["none", "int8"]

AnyPath = ContinuousPath | StaticPath


class Held(NamedTuple):
    """`context` is what an adapter's virtual tokens leave of it."""

    files: VersionFiles
    path: AnyPath
    context: int


class LocalEngine:
    """An engine of one base in this process. `drain` it or `close` it when it is done."""

    def __init__(
        self,
        base: Path,
        dtype: torch.dtype | None = None,
        device: torch.device | None = None,
        quantisation: Quantisation = "none",
    ) -> None:
        """Raises EngineError where a quantisation is not fit for the machine or the base."""
        self._base = base
        self._device = device or pick_device()
        self._dtype = dtype or pick_dtype(self._device)
        shape = read_shape(base)
        make = int8_path if quantisation == "int8" else ContinuousPath
        self._fast = None if shape is None else make(base, shape, self._dtype, self._device)
        if quantisation != "none" and shape is None:
            raise EngineError(
                f"{base}: int8 is for the Llama family", hint="serve without quantisation"
            )
        self.runtime = Runtime(
            "trimtab", trimtab.__version__, self._device.type, dtype_name(self._dtype), quantisation
        )
        self._backlog = Backlog(Pace() if self._fast is None else self._fast.pace)
        self._general: StaticPath | None = None
        if shape is None:
            general = _general()(base, self._dtype, self._device)
            self.context, self.vocabulary = general.context, general.vocabulary
            self._general = StaticPath(general)
        else:
            self.context, self.vocabulary = shape.context, shape.vocabulary
        self._grammars = Grammars(self.vocabulary)
        self._held: dict[str, Held] = {}
        self._trials = Trials(self._held, self._take, self._drop, self._scores)
        self._arrived: list[Job | Command] = []
        self._commands: list[Command] = []
        self._changed = threading.Condition()
        self._closed = False
        self._stopped: EngineUnavailable | None = None
        self._preparing = threading.Lock()
        self._thread = threading.Thread(target=self._work, name="engine", daemon=True)
        self._thread.start()

    async def capabilities(self) -> Capabilities:
        fast = self._fast is not None
        return Capabilities(
            self.runtime,
            self.context,
            MAX_RUNNING if fast else MAX_BATCH,
            dict.fromkeys(MIXED, "mixed" if fast else "alone") | dict.fromkeys(ALONE, "alone"),
            prefix_cache=fast,
            priority=True,
            grammar=True,
            merged=True,
        )

    async def load(self, files: VersionFiles) -> None:
        await self._trials.load(files, self.runtime)

    async def _take(self, files: VersionFiles) -> None:
        if self._knows(files):
            return
        # What takes seconds is not done in the computing thread, which has answers to go on with.
        ready = None if self._takes(files) else await asyncio.to_thread(self._prepare, files)
        await self._order(Command(files.version, lambda: self._load(files, ready), leaves=False))

    async def unload(self, version: str) -> None:
        await self._trials.unload(version)

    async def _drop(self, version: str) -> None:
        await self._order(Command(version, lambda: self._unload(version), leaves=True))

    async def generate(self, request: GenerateRequest) -> AsyncGenerator[Chunk, None]:
        self._trials.check(request.version)
        held = self._of(request.version)
        check_generate(request, held.context, self.vocabulary)
        grammar, schema = None, request.sampling.schema
        if schema is not None:
            grammar = await self._grammars.of(held.files, schema)
        job = GenerateJob(request, grammar=grammar)
        with self._admitted(job, held.path):
            while True:
                chunk: Chunk = await job.mailbox.get()
                yield chunk
                if chunk.finish_reason is not None:
                    return

    async def score(self, request: ScoreRequest) -> list[Score]:
        self._trials.check(request.version)
        return await self._scores(request)

    async def _scores(self, request: ScoreRequest) -> list[Score]:
        held = self._of(request.version)
        check_score(request, held.context, self.vocabulary)
        job = ScoreJob(request)
        with self._admitted(job, held.path):
            scores: list[Score] = await job.mailbox.get()
            return scores

    async def embed(self, request: EmbedRequest) -> list[Vector]:
        raise RequestRefused("this engine holds a base, which makes no embeddings")

    async def drain(self, deadline_s: float) -> None:
        """Admit nothing more and finish what was admitted; cancel the rest at the deadline."""
        self._close()
        deadline = time.monotonic() + deadline_s
        while self._thread.is_alive() and time.monotonic() < deadline:
            await asyncio.sleep(POLL_S)
        self._stop_all()
        await asyncio.to_thread(self._thread.join)

    def close(self) -> None:
        """Stop at the next step of whatever is computed."""
        self._close()
        self._stop_all()
        self._thread.join()

    def alive(self) -> bool:
        """Whether the computing thread still runs; it ends before it was told to by a fault."""
        return self._thread.is_alive()

    @property
    def _paths(self) -> list[AnyPath]:
        return [path for path in (self._fast, self._general) if path is not None]

    def _of(self, version: str) -> Held:
        """Raises VersionNotLoaded."""
        if (held := self._held.get(version)) is None:
            raise VersionNotLoaded(
                f"version {version} is not loaded", hint="load it, then ask again"
            )
        return held

    @contextmanager
    def _admitted(self, job: Job, path: AnyPath) -> Iterator[None]:
        """Until the caller leaves. Raises as `_add` does, and EngineOverloaded where the answer
        would come too late; on the general path only once it has.
        """
        with self._backlog.holding(job) if path is self._fast else nullcontext():
            self._add(job)
            try:
                yield
            finally:
                job.cancelled = True

    def _add(self, job: Job | Command) -> None:
        """Raises EngineOverloaded when too many wait, EngineUnavailable after `close`."""
        with self._changed:
            if self._closed:
                raise EngineUnavailable("the engine is stopping", hint="try again in a moment")
            waiting = len(self._arrived) + sum(path.waiting for path in self._paths)
            if waiting >= MAX_WAITING:
                raise EngineOverloaded(
                    f"{waiting} requests are waiting already", hint="try again later"
                )
            self._arrived.append(job)
            self._changed.notify()

    async def _order(self, command: Command) -> None:
        self._add(command)
        try:
            await command.mailbox.get()
        finally:
            command.cancelled = True

    def _close(self) -> None:
        self._grammars.close()
        with self._changed:
            self._closed = True
            self._changed.notify()

    def _fail_all(self, error: TrimtabError) -> None:
        """The answer to everything that was admitted; nothing more is."""
        with self._changed:
            self._closed = True
            orders = [*self._arrived, *self._commands]
            self._arrived, self._commands = [], []
        for order in orders:
            order.mailbox.put(error)
        for path in self._paths:
            path.fail_all(error)

    def _stop_all(self) -> None:
        """End everything at the next step; the computing thread does it, for what it has just taken
        in is in no queue yet.
        """
        with self._changed:
            self._stopped = EngineUnavailable("the engine stopped", hint="try again in a moment")
            self._changed.notify()

    def _work(self) -> None:
        """The computing thread. What nobody foresaw fails whatever it holds, and ends it: the state
        of the paths is unknown then, and a process that is started again has none.
        """
        try:
            self._compute()
        except Exception as error:
            self._fail_all(unexpected(error))

    def _compute(self) -> None:
        """Take in what came, then one step of each path, and again."""
        while True:
            with self._changed:
                while not (self._arrived or self._commands or self._busy or self._closed):
                    self._changed.wait()
                arrived, self._arrived = self._arrived, []
            if self._stopped is not None:
                for each in arrived:
                    each.mailbox.put(self._stopped)
                arrived = []
                for path in self._paths:
                    path.stop_all(self._stopped)
            if self._closed and not (arrived or self._commands or self._busy):
                return
            for each in arrived:
                if error := self._try(partial(self._take_in, each)):
                    each.mailbox.put(error)
            self._obey()
            for path in self._paths:
                if path.busy:
                    path.step()

    @property
    def _busy(self) -> bool:
        return any(path.busy for path in self._paths)

    def _take_in(self, each: Job | Command) -> None:
        if isinstance(each, Command):
            self._commands.append(each)
            return
        held = self._held.get(each.request.version)
        if held is None or any(c.version == each.request.version for c in self._commands):
            each.mailbox.put(
                VersionNotLoaded(
                    f"version {each.request.version} is being unloaded",
                    hint="load it again, then ask again",
                )
            )
            return
        held.path.add(each)

    def _obey(self) -> None:
        """The commands in their order; one that unloads waits for its version's answers, and those
        on the same version wait for it.
        """
        waiting: list[Command] = []
        for command in self._commands:
            if command.cancelled:
                continue
            behind = any(before.version == command.version for before in waiting)
            held = self._held.get(command.version)
            if behind or (command.leaves and held is not None and held.path.uses(command.version)):
                waiting.append(command)
                continue
            command.mailbox.put(self._try(command.work))
        self._commands = waiting

    def _try(self, work: Callable[[], None]) -> Exception | None:
        try:
            work()
        except TrimtabError as error:
            return error
        except Exception as error:
            return unexpected(error)
        return None

    def _takes(self, files: VersionFiles) -> bool:
        """Whether the fast path computes a version."""
        return self._fast is not None and self._fast.takes(files)

    def _knows(self, files: VersionFiles) -> bool:
        """Whether a version is loaded. Raises IdentityError for other files of the same name, and
        for another base.
        """
        if (held := self._held.get(files.version)) is not None:
            if held.files != files:
                raise IdentityError(
                    f"version {files.version} is loaded from other files already",
                    hint="unload it first; a version's name is the hash of its content",
                )
            return True
        if files.base.resolve() != self._base.resolve():
            raise IdentityError(
                f"version {files.version} stands on {files.base}, this engine holds {self._base}",
                hint="each base has an engine of its own",
            )
        return False

    def _prepare(self, files: VersionFiles) -> "Version":
        """What the general path needs of a version, one at a time."""
        with self._preparing:
            if self._general is None:
                self._general = StaticPath(_general()(self._base, self._dtype, self._device))
            return self._general.prepare(files)

    def _load(self, files: VersionFiles, ready: "Version | None") -> None:
        """`ready` is what the general path made of it, where it is the one to compute it."""
        if self._knows(files):
            return
        if ready is None:
            assert self._fast is not None
            self._fast.load(files)
            held = Held(files, self._fast, self.context)
        else:
            assert self._general is not None
            self._general.hold(ready)
            virtual = self._general.virtual_tokens(files.version)
            held = Held(files, self._general, self.context - virtual)
        self._held[files.version] = held

    def _unload(self, version: str) -> None:
        if (held := self._held.pop(version, None)) is not None:
            held.path.unload(version)
        self._trials.forget(version)


def _general() -> type["GeneralPath"]:
    """With transformers and PEFT behind it, which take longer to import than all else to start."""
    from trimtab.engine.general import GeneralPath

    return GeneralPath
