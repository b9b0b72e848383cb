import re
from xml.etree import ElementTree

from hypothesis import given, settings
from hypothesis import strategies as st

from trimtab.evaluate.forest import WIDTH, forest_svg, ticks_between

numbers = st.floats(-1e4, 1e4, allow_nan=False)


@settings(deadline=None, max_examples=50)
@given(numbers, numbers, numbers)
def test_any_interval_is_well_formed_and_inside_the_picture(a: float, b: float, c: float) -> None:
    low, middle, high = sorted((a, b, c))
    svg = forest_svg(low, middle, high, "points")
    ElementTree.fromstring(svg)
    places = [float(x) for x in re.findall(r' c?x[12]?="([^"]+)"', svg)]
    assert all(0 <= x <= WIDTH for x in places)


@settings(deadline=None, max_examples=50)
@given(numbers, st.floats(1e-3, 1e4))
def test_ticks_are_few_round_and_inside(low: float, span: float) -> None:
    ticks = ticks_between(low, low + span)
    assert 3 <= len(ticks) <= 9
    assert all(low - 1e-6 <= tick <= low + span + 1e-6 for tick in ticks)
