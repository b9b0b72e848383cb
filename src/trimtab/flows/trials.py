"""The trials of a sweep: what each chose, how far it came, and what it cost.

Knows neither how a trial is trained nor who goes on.
"""

import math
from dataclasses import dataclass, replace
from typing import Any, Literal

from trimtab.project import Project
from trimtab.store.home import Home

Verdict = Literal["best", "left", "failed", "out of budget", "not begun"]


@dataclass(frozen=True, slots=True)
class Trial:
    """One choice of the fields, and how far it came: `rung` counts from 1, 0 before the first;
    `looks` are (step, held-out loss).
    """

    number: int
    fields: dict[str, Any]
    run: str
    steps: int
    rung: int = 0
    looks: tuple[tuple[int, float], ...] = ()
    seconds: float = 0.0
    usd: float = 0.0
    verdict: Verdict = "not begun"
    why: str = ""

    @property
    def step(self) -> int:
        return self.looks[-1][0] if self.looks else 0

    @property
    def held_out(self) -> float:
        return self.looks[-1][1] if self.looks else math.inf

    def behind(self, output: dict[str, Any]) -> "Trial":
        """The trial after what the journal says of its way to a step."""
        spent = {"seconds": output["seconds"], "usd": output["usd"]}
        if "failed" in output:
            return replace(self, verdict="failed", why=output["failed"], **spent)
        looks = (*self.looks, (output["step"], output["held_out"]))
        return replace(self, verdict="left", looks=looks, **spent)


@dataclass(frozen=True, slots=True)
class Swept:
    """A sweep that has ended. `trials` stand in the order they were drawn; `best` is None where
    none came as far as a measurement; `whole` says whether the budget was enough.
    """

    project: Project
    home: Home
    trials: tuple[Trial, ...]
    best: Trial | None
    whole: bool

    @property
    def seconds(self) -> float:
        return sum(trial.seconds for trial in self.trials)

    @property
    def usd(self) -> float:
        return sum(trial.usd for trial in self.trials)

    @property
    def line(self) -> str:
        """What it came to, for the terminal."""
        spent = f"{self.seconds:.0f} s of training, ${self.usd:.2f}"
        if self.best is None:
            return f"no trial came as far as a measurement; {spent}"
        fields = ", ".join(f"{name} {value}" for name, value in self.best.fields.items())
        short = "" if self.whole else "; the budget ended it early"
        loss = f"held out {self.best.held_out:.3f}"
        return f"best of {len(self.trials)}: {fields} ({loss}); {spent}{short}"
