"""A paired interval drawn as a small SVG: one line, one dot, and the zero that it must clear.

Draws and knows nothing else; colours come from the page's style sheet through the class names.
"""

import math

WIDTH, HEIGHT, SIDE = 640, 108, 28
AXIS_Y, LINE_Y, CAP = 74, 46, 7


def forest_svg(low: float, difference: float, high: float, unit: str) -> str:
    """A difference with its interval on an axis that holds zero and both ends."""
    left, right = min(low, 0.0), max(high, 0.0)
    room = (right - left or 1.0) * 0.06
    left, right = left - room, right + room

    def x(value: float) -> float:
        return round(SIDE + (value - left) / (right - left) * (WIDTH - 2 * SIDE), 1)

    def mark(kind: str, value: float, top: float, bottom: float) -> str:
        return f'<line class="{kind}" x1="{x(value)}" x2="{x(value)}" y1="{top}" y2="{bottom}"/>'

    def text(kind: str, value: float, y: float, words: str) -> str:
        return f'<text class="{kind}" x="{x(value)}" y="{y}">{words}</text>'

    numbers = f"{difference:+.1f} {unit}, from {low:+.1f} to {high:+.1f}"
    ticks = [tick for tick in ticks_between(left, right) if tick]
    parts = [
        f'<svg class="forest" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{numbers}">',
        f'<line class="axis" x1="{SIDE}" x2="{WIDTH - SIDE}" y1="{AXIS_Y}" y2="{AXIS_Y}"/>',
        *(mark("tick", tick, AXIS_Y, AXIS_Y + 5) for tick in ticks),
        *(text("label", tick, AXIS_Y + 20, f"{tick:+g}") for tick in ticks),
        mark("zero", 0.0, 8, AXIS_Y + 5),
        text("label", 0.0, AXIS_Y + 20, "0"),
        f'<line class="interval" x1="{x(low)}" x2="{x(high)}" y1="{LINE_Y}" y2="{LINE_Y}"/>',
        mark("interval", low, LINE_Y - CAP, LINE_Y + CAP),
        mark("interval", high, LINE_Y - CAP, LINE_Y + CAP),
        f'<circle class="point" cx="{x(difference)}" cy="{LINE_Y}" r="6"/>',
        text("value", difference, LINE_Y - 18, f"{difference:+.1f}"),
        "</svg>",
    ]
    return "".join(parts)


def ticks_between(low: float, high: float) -> list[float]:
    """Round numbers, 1, 2 or 5 times a power of ten apart: at most nine of them."""
    rough = (high - low) / 8
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough)
    return [round(i * step, 9) for i in range(math.ceil(low / step), math.floor(high / step) + 1)]
