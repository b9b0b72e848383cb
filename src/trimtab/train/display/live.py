"""The page of a run while it trains: figures, curves and samples in one file without a server.

Drawn from the trainer's own log, so that a run that goes on shows its whole past. It asks its
browser to read it again every few seconds, until the run has ended.
"""

import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trimtab.page import template
from trimtab.train.display.chart import Line, chart, number
from trimtab.train.display.curve import smoothed
from trimtab.train.display.samples import Asked
from trimtab.train.run import StepProgress, replace_file

# Writing costs milliseconds; more often than this nobody looks.
EVERY_S = 2.0
SHOWN = 6
Log = Sequence[Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class Page:
    """What the template draws; `facts` are (name, value, note)."""

    title: str
    state: str
    why: str
    step: int
    steps: int
    time: str
    facts: list[tuple[str, str, str]]
    charts: list[str]
    samples: list[Asked]
    samples_note: str
    record: list[tuple[str, str]]

    @property
    def under_way(self) -> bool:
        return self.state == "training"


class LivePage:
    """Writes the page of one run; a disk without room costs the page and not the run."""

    def __init__(
        self,
        file: Path,
        title: str,
        record: Sequence[tuple[str, str]],
        samples_note: str,
        watched: Sequence[str] = (),
    ) -> None:
        self._file = file
        self._title = title
        self._record = list(record)
        self.samples_note = samples_note
        self._watched = watched
        self._written = float("-inf")
        self._template = template("trimtab.train.display", "live.html")

    def show(
        self,
        log: Log,
        progress: StepProgress,
        samples: Sequence[Asked],
        state: str = "training",
        why: str = "",
    ) -> None:
        """Draw it anew, where the last time is a while ago or the run has ended."""
        if state == "training" and time.monotonic() - self._written < EVERY_S:
            return
        with suppress(OSError):
            replace_file(self._file, self._drawn(log, progress, samples, state, why).encode())
        self._written = time.monotonic()

    def _drawn(
        self, log: Log, progress: StepProgress, samples: Sequence[Asked], state: str, why: str
    ) -> str:
        page = Page(
            title=self._title,
            state=state,
            why=why,
            step=progress.step,
            steps=progress.steps,
            time=_time(progress, state),
            facts=_facts(log, progress),
            charts=list(_charts(log, self._watched)),
            samples=[
                Asked(each.prompt, each.gold, _thinned(each.answers))
                for each in samples
                if each.answers
            ],
            samples_note=self.samples_note,
            record=self._record,
        )
        return self._template.render(page=page)


def _thinned(answers: Sequence[tuple[int, str]]) -> tuple[tuple[int, str], ...]:
    """The first, the last, and some between."""
    if len(answers) <= SHOWN:
        return tuple(answers)
    last = len(answers) - 1
    return tuple(answers[round(at * last / (SHOWN - 1))] for at in range(SHOWN))


def _time(progress: StepProgress, state: str) -> str:
    spent = f"{clock(progress.seconds)} of training"
    if state != "training":
        return spent
    left = progress.seconds / progress.step * (progress.steps - progress.step)
    return f"{spent}, about {clock(left)} left"


def clock(seconds: float) -> str:
    """Hours, minutes and seconds, without those that are nothing."""
    whole = round(seconds)
    hours, minutes = whole // 3600, whole % 3600 // 60
    if hours:
        return f"{hours} h {minutes:02} min"
    return f"{minutes} min {whole % 60:02} s" if minutes else f"{whole} s"


def _facts(log: Log, progress: StepProgress) -> list[tuple[str, str, str]]:
    _, losses = _series(log, "loss")
    _, held = _series(log, "held_out_loss")
    facts = [("Loss", f"{smoothed(losses)[-1]:.3f}", "smoothed")]
    if held:
        facts.append(("Held out", f"{held[-1]:.3f}", f"best {min(held):.3f}"))
    facts += [
        ("Gradient norm", f"{progress.gradient_norm:.3g}", ""),
        ("Speed", f"{progress.tokens_s:,.0f}", "tokens/s"),
    ]
    if progress.mfu is not None:
        facts.append(("MFU", f"{progress.mfu:.0%}", "of matrix rate"))
    facts.append(("Peak memory", f"{progress.memory / 1e9:.1f}", "GB"))
    left = "" if progress.left_usd is None else f"${progress.left_usd:.2f} left"
    facts.append(("Money", f"${progress.usd:.2f}", left))
    return facts


def _charts(log: Log, watched: Sequence[str]) -> Sequence[str]:
    steps, losses = _series(log, "loss")
    line = smoothed(losses)
    held = _series(log, "held_out_loss")
    title = "Loss, and on the records held out" if held[0] else "Loss"
    lines = [Line(steps, losses, "raw"), Line(*held, "dots"), Line(steps, line)]
    drawn = [chart(title, lines, f"{line[-1]:.3f}")]
    others = ["grad_norm", "learning_rate", "tokens_s", "mfu", *watched]
    for name in others:
        at, values = _series(log, name)
        if values:
            drawn.append(chart(_TITLES.get(name, name), [Line(at, values)], number(values[-1])))
    return drawn


_TITLES = {
    "grad_norm": "Gradient norm",
    "learning_rate": "Learning rate",
    "tokens_s": "Tokens a second",
    "mfu": "Model FLOPs utilisation",
}


def _series(log: Log, name: str) -> tuple[list[int], list[float]]:
    found = [(int(entry["step"]), float(entry[name])) for entry in log if name in entry]
    return [step for step, _ in found], [value for _, value in found]
