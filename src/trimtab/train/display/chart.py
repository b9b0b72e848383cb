"""A line chart as SVG, drawn without a plotting library: ticks that are round, light and dark."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

WIDTH, HEIGHT = 720, 320
LEFT, RIGHT, TOP, BOTTOM = 68, 24, 44, 44
# More points than a picture has columns only make it heavy.
MOST = 600


@dataclass(frozen=True, slots=True)
class Line:
    """Values at steps; `look` is a class of the style: raw, line, or dots."""

    steps: Sequence[int]
    values: Sequence[float]
    look: str = "line"


@dataclass(frozen=True, slots=True)
class Frame:
    """Maps steps and values to the picture's coordinates."""

    left: float
    right: float
    low: float
    high: float

    def x(self, step: float) -> float:
        share = (step - self.left) / (self.right - self.left)
        return LEFT + share * (WIDTH - LEFT - RIGHT)

    def y(self, value: float) -> float:
        share = (value - self.low) / (self.high - self.low)
        return HEIGHT - BOTTOM - share * (HEIGHT - TOP - BOTTOM)

    def path(self, line: Line) -> str:
        pairs = thinned(list(zip(line.steps, line.values, strict=True)))
        return " ".join(f"{self.x(step):.1f},{self.y(value):.1f}" for step, value in pairs)


def chart(title: str, lines: Sequence[Line], last: str) -> str:
    """A picture of 720 x 320. `last` is told at the end of the last line, which must have points;
    every value is finite.
    """
    shown = [line for line in lines if line.values]
    values = [value for line in shown for value in line.values]
    steps = [step for line in shown for step in line.steps]
    ticks = nice_ticks(min([*values, 0.0]), max(values))
    frame = Frame(min(steps), max(max(steps), min(steps) + 1), ticks[0], ticks[-1])
    end = shown[-1]
    x, y = frame.x(end.steps[-1]), frame.y(end.values[-1])
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
        f'aria-label="{escape(title)}: {escape(last)}">',
        STYLE,
        f'<rect class="back" width="{WIDTH}" height="{HEIGHT}" rx="8"/>',
        f'<text class="title" x="{LEFT}" y="26">{escape(title)}</text>',
        *(_rule(frame, tick) for tick in ticks),
        *(_mark(frame, step) for step in _whole_ticks(frame)),
        f'<text class="tick" x="{WIDTH - RIGHT}" y="{HEIGHT - 8}" text-anchor="end">step</text>',
        *(_drawn(frame, line) for line in shown),
        f'<circle class="dot" cx="{x:.1f}" cy="{y:.1f}" r="3.5"/>',
        f'<text class="last" x="{x - 6:.1f}" y="{y - 10:.1f}" text-anchor="end">'
        f"{escape(last)}</text>",
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


def number(value: float, digits: int = 3) -> str:
    """In so many digits; a large one whole, and never with an exponent."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.{digits}g}"


def thinned(pairs: list[tuple[int, float]]) -> list[tuple[int, float]]:
    """No more points than can be told apart, the last one among them."""
    stride = -(-len(pairs) // MOST)
    return pairs[::-1][::stride][::-1]


def nice_ticks(low: float, high: float, wanted: int = 5) -> list[float]:
    """Round numbers that enclose [low, high], about `wanted` of them (Heckbert 1990)."""
    span = max(high - low, 1e-9)
    raw = span / wanted
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(power * nice for nice in (1, 2, 5, 10) if power * nice >= raw)
    first, last = math.floor(low / step), math.ceil(high / step)
    return [round(step * i, 12) for i in range(first, max(last, first + 1) + 1)]


def _drawn(frame: Frame, line: Line) -> str:
    if line.look != "dots":
        return f'<polyline class="{line.look}" points="{frame.path(line)}"/>'
    pairs = zip(line.steps, line.values, strict=True)
    return "".join(
        f'<circle class="held" cx="{frame.x(step):.1f}" cy="{frame.y(value):.1f}" r="4"/>'
        for step, value in pairs
    )


def _whole_ticks(frame: Frame) -> list[int]:
    ticks = nice_ticks(frame.left, frame.right)
    inside = (tick for tick in ticks if frame.left <= tick <= frame.right)
    return sorted({int(tick) for tick in inside if tick == int(tick)})


def _rule(frame: Frame, value: float) -> str:
    y = frame.y(value)
    return (
        f'<line class="rule" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'
        f'<text class="tick" x="{LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">'
        f"{number(value, 6)}</text>"
    )


def _mark(frame: Frame, step: int) -> str:
    x, y = frame.x(step), HEIGHT - BOTTOM + 18
    return f'<text class="tick" x="{x:.1f}" y="{y}" text-anchor="middle">{step}</text>'


STYLE = """<style>
.back { fill: #ffffff } .title { fill: #1f2937; font: 600 15px system-ui, sans-serif }
.tick { fill: #6b7280; font: 11px system-ui, sans-serif } .rule { stroke: #e5e7eb }
.raw { fill: none; stroke: #0f766e; stroke-opacity: .28 }
.line { fill: none; stroke: #0f766e; stroke-width: 2.2; stroke-linejoin: round }
.dot { fill: #0f766e } .last { fill: #0f766e; font: 600 12px system-ui, sans-serif }
.last { stroke: #ffffff; stroke-width: 4px; stroke-linejoin: round; paint-order: stroke }
.held { fill: #c2410c; stroke: #ffffff; stroke-width: 1.5 }
@media (prefers-color-scheme: dark) {
.back { fill: #111827 } .title { fill: #f3f4f6 } .tick { fill: #9ca3af } .rule { stroke: #1f2937 }
.raw, .line { stroke: #2dd4bf } .dot, .last { fill: #2dd4bf } .last { stroke: #111827 }
.held { fill: #fb923c; stroke: #111827 } }
</style>"""
