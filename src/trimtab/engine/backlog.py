"""What a path has admitted and not finished, and whether one more would be answered in time.

A request is expected to be whole when the path has computed everything that is open beside it, for
whole answers take turns at every step: by Little's law (1961) that is what it finds once requests
keep coming. Lives in the event loop, so that a refusal waits for no step. Knows nothing of tensors.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager

from trimtab.engine.jobs import PRIORITIES, GenerateJob, Job
from trimtab.engine.pace import Pace
from trimtab.errors import EngineOverloaded

MARGIN = 1.25
"""Answers are of unequal length, and of those that are expected just in time half would be late."""


class Backlog:
    """The open jobs of a path that goes at `pace`."""

    def __init__(self, pace: Pace) -> None:
        self._pace = pace
        self._open: set[Job] = set()

    @contextmanager
    def holding(self, job: Job) -> Iterator[None]:
        """Raises EngineOverloaded where the answer would be late. Alone, a job always gets its try:
        what was measured in company says little of it.
        """
        patience, ahead = job.request.patience_s, self._ahead(job)
        expected = MARGIN * (ahead + self._seconds(job))
        if patience is not None and ahead and expected > patience:
            raise late(expected, patience)
        self._open.add(job)
        try:
            yield
        finally:
            self._open.discard(job)

    def _ahead(self, job: Job) -> float:
        """Seconds of work that does not give way to `job`."""
        rank = PRIORITIES.index(job.request.priority)
        return sum(
            self._seconds(other)
            for other in self._open
            if PRIORITIES.index(other.request.priority) <= rank
        )

    def _seconds(self, job: Job) -> float:
        prompt = len(job.request.prompt)
        if isinstance(job, GenerateJob):
            return self._pace.seconds(prompt, job.request.sampling.max_tokens)
        return self._pace.seconds(prompt + sum(map(len, job.request.completions)), 0)


def late(expected: float, patience: float) -> EngineOverloaded:
    """The refusal of a job that is expected after so many seconds."""
    wait_s = max(1.0, expected - patience)
    return EngineOverloaded(
        f"the answer is expected after {expected:.1f} s, {patience:.1f} s are allowed",
        hint=f"try again in {math.ceil(wait_s)} s, or allow more",
        retry_s=wait_s,
    )


def overdue(job: Job, now: float) -> EngineOverloaded | None:
    """The refusal of a job that waited for its turn until it was too late; None while it is not."""
    patience, waited = job.request.patience_s, now - job.arrived
    if patience is None or waited <= patience:
        return None
    return EngineOverloaded(
        f"the answer did not begin in {waited:.1f} s, {patience:.1f} s are allowed",
        hint="try again later, or allow more",
    )
