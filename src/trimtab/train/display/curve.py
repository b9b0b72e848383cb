"""The loss of a run, as data and as a picture."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from trimtab.train.display.chart import Line, chart

# A step's weight in the smoothed line fades by half in so many steps.
HALF_LIFE = 5.0


@dataclass(frozen=True, slots=True)
class Point:
    """The loss at one optimizer step, with whatever else the objective watches.

    The loss of SFT is in nats a supervised token. `held_out` is the loss on the records held out,
    where it was measured behind this step.
    """

    step: int
    loss: float
    learning_rate: float
    gradient_norm: float
    held_out: float | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)


def to_json(points: Sequence[Point]) -> list[dict[str, Any]]:
    return [asdict(point) for point in points]


def smoothed(losses: Sequence[float]) -> list[float]:
    """Exponential mean with the start-up bias taken out (Kingma and Ba 2015, section 3)."""
    keep = 0.5 ** (1 / HALF_LIFE)
    mean, out = 0.0, []
    for count, loss in enumerate(losses, start=1):
        mean = keep * mean + (1 - keep) * loss
        out.append(mean / (1 - keep**count))
    return out


def to_svg(points: Sequence[Point], title: str) -> str:
    """Each step pale, the smoothed line bold, what is held out as dots."""
    steps = [point.step for point in points]
    losses = [point.loss for point in points]
    held = [(point.step, point.held_out) for point in points if point.held_out is not None]
    line = smoothed(losses)
    dots = Line([step for step, _ in held], [loss for _, loss in held], "dots")
    lines = [Line(steps, losses, "raw"), dots, Line(steps, line)]
    return chart(title, lines, f"{line[-1]:.3f}")
