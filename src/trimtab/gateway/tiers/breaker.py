"""A three-state circuit breaker: closed, open, half-open with one probe.

After Temporal's description (docs/architecture/circuit-breaker.md) and Envoy's outlier ejection:
so many failures in a row open it; each further opening lasts longer; a permit is asked for before
the work and told of its end after it. Only the upstream's failures count: a client that left, a
request that was wrong and a refusal of our own say nothing about it. Time is handed in.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

FAILURES = 5
OPEN_S = 30.0
LONGEST_S = 300.0
JITTER = 0.1

State = Literal["closed", "open", "half-open"]


@dataclass(slots=True)
class Permit:
    """Leave for one attempt. The first word about its end counts, later ones do not."""

    breaker: "Breaker"
    epoch: int
    told: bool = False

    def succeeded(self) -> None:
        self._tell(True)

    def failed(self) -> None:
        self._tell(False)

    def left(self) -> None:
        """It ended without saying anything about the upstream."""
        self._tell(None)

    def _tell(self, went_well: bool | None) -> None:
        if not self.told:
            self.told = True
            self.breaker._hear(self.epoch, went_well)


class Breaker:
    """Guards one upstream. `clock` counts seconds and never goes back."""

    def __init__(self, clock: Callable[[], float], draw: Callable[[], float] | None = None) -> None:
        self._clock = clock
        self._draw = draw or random.random
        self._failures = 0
        self._openings = 0
        self._until: float | None = None
        self._probing = False
        # Words from before a change of state say nothing about the state after it.
        self._epoch = 0

    @property
    def state(self) -> State:
        if self._until is None:
            return "closed"
        return "open" if self._clock() < self._until and not self._probing else "half-open"

    @property
    def wait_s(self) -> float:
        """Seconds until a probe may pass; 0 where one may already."""
        return 0.0 if self._until is None else max(0.0, self._until - self._clock())

    def allow(self) -> Permit | None:
        """Leave to try, or None. Half open, one at a time gets it."""
        if self._until is None:
            return Permit(self, self._epoch)
        if self._probing or self._clock() < self._until:
            return None
        self._probing = True
        return Permit(self, self._epoch)

    def _hear(self, epoch: int, went_well: bool | None) -> None:
        if epoch != self._epoch:
            return
        if self._probing:
            self._probing = False
            if went_well is True:
                self._close()
            elif went_well is False:
                self._open()
        elif went_well is True:
            self._failures = 0
        elif went_well is False:
            self._failures += 1
            if self._failures >= FAILURES:
                self._open()

    def _open(self) -> None:
        self._openings += 1
        self._epoch += 1
        longer = min(LONGEST_S, OPEN_S * self._openings)
        self._until = self._clock() + longer * (1 + JITTER * self._draw())

    def _close(self) -> None:
        self._failures, self._openings, self._until = 0, 0, None
        self._epoch += 1
