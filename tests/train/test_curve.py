import xml.etree.ElementTree as ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trimtab.train.display.chart import (
    HEIGHT,
    MOST,
    WIDTH,
    Line,
    chart,
    nice_ticks,
    number,
    thinned,
)
from trimtab.train.display.curve import Point, smoothed, to_json, to_svg

LOSSES = st.lists(st.floats(0.001, 50), min_size=1, max_size=60)


def points(losses: list[float]) -> list[Point]:
    return [Point(i, loss, 1e-3, 0.5) for i, loss in enumerate(losses, start=1)]


@given(low=st.floats(-50, 50), span=st.floats(1e-6, 1e4))
def test_ticks_enclose_and_are_few(low: float, span: float) -> None:
    ticks = nice_ticks(low, low + span)
    slack = 1e-6 * (abs(low) + span)
    assert ticks[0] <= low + slack
    assert ticks[-1] >= low + span - slack
    assert 2 <= len(ticks) <= 8


@given(LOSSES)
def test_a_smoothed_line_stays_within_the_losses(losses: list[float]) -> None:
    line = smoothed(losses)
    assert len(line) == len(losses)
    assert line[0] == pytest.approx(losses[0])
    assert all(min(losses) - 1e-9 <= value <= max(losses) + 1e-9 for value in line)


@given(LOSSES)
def test_every_point_is_inside_the_picture(losses: list[float]) -> None:
    drawn = ElementTree.fromstring(to_svg(points(losses), "a & b"))
    lines = [element for element in drawn.iter() if element.tag.endswith("polyline")]
    assert len(lines) == 2
    for line in lines:
        pairs = [pair.split(",") for pair in line.attrib["points"].split()]
        assert len(pairs) == len(losses)
        assert all(0 <= float(x) <= WIDTH and 0 <= float(y) <= HEIGHT for x, y in pairs)


def test_a_long_run_is_thinned_to_what_can_be_seen() -> None:
    for count in (1, MOST, MOST + 1, 10 * MOST + 7):
        pairs = [(step, 1.0) for step in range(count)]
        kept = thinned(pairs)
        assert len(kept) <= MOST
        assert kept[-1] == pairs[-1]


def test_large_numbers_are_told_whole() -> None:
    drawn = chart("Tokens a second", [Line([1, 2], [9170.4, 5129.9])], number(5129.9))
    assert ">5,130<" in drawn
    assert ">10,000<" in drawn
    assert "e+" not in drawn
    assert [number(value) for value in (0.000125, 0.15123, -1234.5)] == [
        "0.000125",
        "0.151",
        "-1,234",
    ]


def test_what_is_held_out_is_drawn_beside_it() -> None:
    held = [Point(1, 2.0, 1e-3, 0.5, held_out=2.1), Point(2, 1.0, 1e-3, 0.5)]
    assert to_svg(held, "run").count('class="held"') == 1


def test_the_data_holds_every_step() -> None:
    assert to_json(points([2.0, 1.0]))[1] == {
        "step": 2,
        "loss": 1.0,
        "learning_rate": 1e-3,
        "gradient_norm": 0.5,
        "held_out": None,
        "metrics": {},
    }
