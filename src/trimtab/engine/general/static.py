"""Static batches of the general path behind the same face as the continuous ones: requests wait,
those of one kind and version are computed together, the next batch begins when the last is done.

Knows nothing of models.
"""

import time
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import TYPE_CHECKING

from trimtab.engine.backlog import overdue
from trimtab.engine.faults import unexpected
from trimtab.engine.general.layout import MAX_BATCH, MAX_BATCH_TOKENS
from trimtab.engine.jobs import PRIORITIES, GenerateJob, Job, ScoreJob, stop
from trimtab.engine.sampling.sampler import Sampler
from trimtab.errors import TrimtabError
from trimtab.inference import Chunk, Usage, VersionFiles

if TYPE_CHECKING:
    from trimtab.engine.general.path import GeneralPath, Version


class StaticPath:
    """Runs in one thread, but for `prepare`."""

    def __init__(self, path: "GeneralPath") -> None:
        self._path = path
        self._waiting: list[Job] = []
        self._batch: list[Job] = []
        self._steps: Iterator[None] | None = None

    def prepare(self, files: VersionFiles) -> "Version":
        return self._path.prepare(files)

    def hold(self, version: "Version") -> None:
        self._path.hold(version)

    def unload(self, version: str) -> None:
        self._path.unload(version)

    def virtual_tokens(self, version: str) -> int:
        return self._path.virtual_tokens(version)

    def uses(self, version: str) -> bool:
        return any(job.request.version == version for job in (*self._batch, *self._waiting))

    @property
    def busy(self) -> bool:
        return bool(self._waiting) or self._steps is not None

    def waiting(self, rank: int) -> int:
        """Jobs that wait for their turn and do not give way to a priority of this rank."""
        return sum(PRIORITIES.index(job.request.priority) <= rank for job in self._waiting)

    def add(self, job: Job) -> None:
        self._waiting.append(job)
        self._waiting.sort(key=lambda job: PRIORITIES.index(job.request.priority))

    def step(self) -> None:
        """One step of the batch; what fails, fails for its own batch alone."""
        self._waiting = [job for job in self._waiting if _waits(job)]
        try:
            if self._steps is None:
                self._begin()
            if self._steps is not None and next(self._steps, self) is self:
                self._end()
        except TrimtabError as error:
            self._fail(error)
        except Exception as error:
            self._fail(unexpected(error))

    def fail_all(self, error: TrimtabError) -> None:
        for job in (*self._batch, *self._waiting):
            job.mailbox.put(error)

    def stop_all(self, error: TrimtabError) -> None:
        """End everything at the next step, see `stop`."""
        for job in (*self._batch, *self._waiting):
            stop(job, error)

    def _begin(self) -> None:
        self._batch = group(self._waiting)
        if self._batch:
            self._waiting = [job for job in self._waiting if job not in self._batch]
            self._steps = self._compute(self._batch)

    def _end(self) -> None:
        self._batch, self._steps = [], None

    def _fail(self, error: TrimtabError) -> None:
        for job in self._batch:
            job.mailbox.put(error)
        self._end()

    def _compute(self, jobs: Sequence[Job]) -> Iterator[None]:
        """All jobs are of the kind of the first, see `group`."""
        version = jobs[0].request.version
        generate = [job for job in jobs if isinstance(job, GenerateJob)]
        if generate:
            yield from self._path.generate(
                version,
                [job.request for job in generate],
                [Sampler(job.request, job.grammar) for job in generate],
                wanted=lambda i: not generate[i].cancelled,
                give=lambda i, chunk: generate[i].mailbox.put(chunk),
            )
            return
        score = [job for job in jobs if isinstance(job, ScoreJob)]
        asked = [(job, completion) for job in score for completion in job.request.completions]
        found = yield from self._path.score(
            version,
            [(job.request.prompt, completion) for job, completion in asked],
            wanted=lambda i: not asked[i][0].cancelled,
        )
        scores = iter(found)
        for job in score:
            job.mailbox.put(list(islice(scores, job.rows)))


def group(jobs: Sequence[Job]) -> list[Job]:
    """The first job and those that can join it: of its kind and version, within the bounds. A
    deterministic one has no company.

    The first is always taken, so nobody waits for ever.
    """
    if not jobs:
        return []
    first = jobs[0]
    if _is_apart(first):
        return [first]
    chosen: list[Job] = []
    rows = width = 0
    for job in jobs:
        if type(job) is not type(first) or job.request.version != first.request.version:
            continue
        if _is_apart(job):
            continue
        more, wider = rows + job.rows, max(width, job.width)
        if not chosen or (more <= MAX_BATCH and more * wider <= MAX_BATCH_TOKENS):
            chosen.append(job)
            rows, width = more, wider
    return chosen


def _waits(job: Job) -> bool:
    """Whether a job still waits for its turn; one that waited longer than it may is told so, and an
    answer that was cancelled has its end.
    """
    if not job.cancelled and (error := overdue(job, time.monotonic())):
        job.mailbox.put(error)
        return False
    if job.cancelled and isinstance(job, GenerateJob):
        usage = Usage(len(job.request.prompt), 0)
        job.mailbox.put(Chunk("", (), (), "cancelled", usage))
    return not job.cancelled


def _is_apart(job: Job) -> bool:
    return isinstance(job, GenerateJob) and job.request.sampling.deterministic
