"""The loss of a run, as data and as a picture drawn without a plotting library."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from html import escape
from typing import Any

WIDTH, HEIGHT = 720, 320
LEFT, RIGHT, TOP, BOTTOM = 56, 24, 44, 44
# A step's weight in the smoothed line fades by half in so many steps.
HALF_LIFE = 5.0


@dataclass(frozen=True, slots=True)
class Point:
    """The loss at one optimizer step, with whatever else the objective watches.

    The loss of SFT is in nats a supervised token.
    """

    step: int
    loss: float
    learning_rate: float
    gradient_norm: float
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
    """A picture of 720 x 320: each step pale, the smoothed line bold; light and dark."""
    steps = [point.step for point in points]
    losses = [point.loss for point in points]
    ticks = nice_ticks(min([*losses, 0.0]), max(losses))
    frame = _Frame(steps[0], max(steps[-1], steps[0] + 1), ticks[0], ticks[-1])
    line = smoothed(losses)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
        f'aria-label="{escape(title)}: loss {losses[0]:.3f} to {line[-1]:.3f}">',
        _STYLE,
        f'<rect class="back" width="{WIDTH}" height="{HEIGHT}" rx="8"/>',
        f'<text class="title" x="{LEFT}" y="26">{escape(title)}</text>',
        *(_rule(frame, tick) for tick in ticks),
        *(_mark(frame, step) for step in _whole_ticks(steps[0], frame.right)),
        f'<text class="tick" x="{WIDTH - RIGHT}" y="{HEIGHT - 8}" text-anchor="end">step</text>',
        f'<polyline class="raw" points="{frame.path(steps, losses)}"/>',
        f'<polyline class="line" points="{frame.path(steps, line)}"/>',
        f'<circle class="dot" cx="{frame.x(steps[-1]):.1f}" cy="{frame.y(line[-1]):.1f}" r="3.5"/>',
        f'<text class="last" x="{frame.x(steps[-1]) - 6:.1f}" y="{frame.y(line[-1]) - 10:.1f}" '
        f'text-anchor="end">{line[-1]:.3f}</text>',
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


def nice_ticks(low: float, high: float, wanted: int = 5) -> list[float]:
    """Round numbers that enclose [low, high], about `wanted` of them (Heckbert 1990)."""
    span = max(high - low, 1e-9)
    raw = span / wanted
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(power * nice for nice in (1, 2, 5, 10) if power * nice >= raw)
    first, last = math.floor(low / step), math.ceil(high / step)
    return [round(step * i, 12) for i in range(first, last + 1)]


@dataclass(frozen=True, slots=True)
class _Frame:
    """Maps steps and losses to the picture's coordinates."""

    left: int
    right: int
    low: float
    high: float

    def x(self, step: float) -> float:
        share = (step - self.left) / (self.right - self.left)
        return LEFT + share * (WIDTH - LEFT - RIGHT)

    def y(self, loss: float) -> float:
        share = (loss - self.low) / (self.high - self.low)
        return HEIGHT - BOTTOM - share * (HEIGHT - TOP - BOTTOM)

    def path(self, steps: Sequence[int], losses: Sequence[float]) -> str:
        pairs = zip(steps, losses, strict=True)
        return " ".join(f"{self.x(step):.1f},{self.y(loss):.1f}" for step, loss in pairs)


def _whole_ticks(low: int, high: int) -> list[int]:
    ticks = nice_ticks(low, high)
    return sorted({int(tick) for tick in ticks if tick == int(tick) and low <= tick <= high})


def _rule(frame: _Frame, loss: float) -> str:
    y = frame.y(loss)
    return (
        f'<line class="rule" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'
        f'<text class="tick" x="{LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{loss:g}</text>'
    )


def _mark(frame: _Frame, step: int) -> str:
    x, y = frame.x(step), HEIGHT - BOTTOM + 18
    return f'<text class="tick" x="{x:.1f}" y="{y}" text-anchor="middle">{step}</text>'


_STYLE = """<style>
.back { fill: #ffffff } .title { fill: #1f2937; font: 600 15px system-ui, sans-serif }
.tick { fill: #6b7280; font: 11px system-ui, sans-serif } .rule { stroke: #e5e7eb }
.raw { fill: none; stroke: #0f766e; stroke-opacity: .28 }
.line { fill: none; stroke: #0f766e; stroke-width: 2.2; stroke-linejoin: round }
.dot { fill: #0f766e } .last { fill: #0f766e; font: 600 12px system-ui, sans-serif }
@media (prefers-color-scheme: dark) {
.back { fill: #111827 } .title { fill: #f3f4f6 } .tick { fill: #9ca3af } .rule { stroke: #1f2937 }
.raw, .line { stroke: #2dd4bf } .dot, .last { fill: #2dd4bf } }
</style>"""
