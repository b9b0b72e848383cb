"""Where a run ends before its last step: its deadline, its money, or the place of a pause.

Counts training's own seconds, over all attempts; loading and probing lie outside. Knows no trainer.
"""

from dataclasses import dataclass
from typing import Literal

Ended = Literal["", "deadline", "budget", "early"]
HOUR = 3600.0


@dataclass(frozen=True, slots=True)
class Pause:
    """Where to stop with a checkpoint and go on another time: after a step, or after so many
    seconds of training over all attempts. `closing_s` is what such a stop has taken at most where
    others made one.
    """

    step: int
    seconds: float = float("inf")
    closing_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Limits:
    """`deadline_s` and `budget_usd` end a run, at `usd_hour` dollars an hour of all machines that
    it runs on; None is no limit.
    """

    deadline_s: float | None = None
    budget_usd: float | None = None
    usd_hour: float = 0.0
    pause: Pause | None = None

    def usd(self, seconds: float) -> float:
        """What so many seconds cost."""
        return seconds / HOUR * self.usd_hour

    def left_usd(self, seconds: float) -> float | None:
        """What is left of the budget; None where there is none."""
        return None if self.budget_usd is None else max(0.0, self.budget_usd - self.usd(seconds))

    def ended(self, seconds: float, next_step: float) -> Ended:
        """Why the run ends now: the next step, of so many seconds with the checkpoint behind it,
        would pass a limit.
        """
        if self.deadline_s is not None and seconds + next_step > self.deadline_s:
            return "deadline"
        if self.budget_usd is not None and self.usd(seconds + next_step) > self.budget_usd:
            return "budget"
        return ""

    def paused(self, step: int, seconds: float, next_step: float) -> bool:
        """Whether the run pauses after this step."""
        if self.pause is None:
            return False
        return step >= self.pause.step or seconds + next_step > self.pause.seconds
