from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from statsmodels.stats.multitest import multipletests

from trimtab.stats.correction import holm

p_values = st.lists(st.floats(0, 1), min_size=1, max_size=8)


@pytest.mark.parametrize(
    "found", [[0.01, 0.04, 0.03], [0.5, 0.5], [0.001, 0.9, 0.02, 0.02], [0.0, 1.0]]
)
def test_it_equals_statsmodels(found: list[float]) -> None:
    assert holm(found) == pytest.approx(tuple(multipletests(found, method="holm")[1]))


@given(st.lists(st.floats(0, 1), min_size=1, max_size=5))
def test_it_is_bonferroni_over_every_subset(found: list[float]) -> None:
    """Marcus, Peritz and Gabriel's closure principle: a claim holds if no subset speaks against."""
    places = range(len(found))
    subsets = [s for count in places for s in combinations(places, count + 1)]

    def closed(place: int) -> float:
        over = [subset for subset in subsets if place in subset]
        return max(min(1.0, len(s) * min(found[other] for other in s)) for s in over)

    assert holm(found) == pytest.approx(tuple(closed(place) for place in places))


@given(p_values)
def test_correction_never_helps_and_keeps_the_order(found: list[float]) -> None:
    adjusted = holm(found)

    assert all(before <= after <= 1 for before, after in zip(found, adjusted, strict=True))
    order = sorted(range(len(found)), key=found.__getitem__)
    assert [adjusted[place] for place in order] == sorted(adjusted)


def test_one_test_is_left_alone_and_none_is_fine() -> None:
    assert holm([0.03]) == (0.03,)
    assert holm([]) == ()


@pytest.mark.parametrize("wrong", [-0.1, 1.1, float("nan")])
def test_what_is_no_p_value_is_refused(wrong: float) -> None:
    with pytest.raises(ValueError, match="p-values"):
        holm([0.5, wrong])
