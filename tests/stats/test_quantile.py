import math
import random

import numpy
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trimtab.stats.quantile import quantile, quantile_interval

values = st.lists(st.floats(0, 1e6), min_size=1, max_size=60)


@given(values, st.floats(0, 1))
def test_it_is_numpys_inverted_cdf(measured: list[float], share: float) -> None:
    # Away from the steps, where numpy rounds count x share differently.
    position = len(measured) * share
    if abs(position - round(position)) < 1e-9 and 0 < share < 1:
        return

    assert quantile(measured, share) == numpy.quantile(measured, share, method="inverted_cdf")


@given(values, st.integers(0, 100))
def test_it_is_the_smallest_value_that_enough_do_not_exceed(
    measured: list[float], per_cent: int
) -> None:
    found = quantile(measured, per_cent / 100)
    enough = [
        value
        for value in measured
        if sum(other <= value for other in measured) * 100 >= per_cent * len(measured)
    ]

    assert found == min(enough)


def test_known_quantiles() -> None:
    assert quantile([3, 1, 2], 0.5) == 2
    assert quantile([4, 1, 3, 2], 0.5) == 2
    assert quantile(list(range(1, 101)), 0.07) == 7
    assert quantile(list(range(1, 101)), 0.95) == 95
    assert quantile([7], 0.95) == 7


def test_no_values_have_no_quantile() -> None:
    with pytest.raises(ValueError, match="no values"):
        quantile([], 0.5)


def test_the_interval_of_a_median_is_the_sign_tests() -> None:
    # Ten values: ranks 2 and 9, as in every table of the sign test.
    assert quantile_interval(list(range(1, 11)), 0.5) == (2, 9)


def test_the_upper_end_of_p95_needs_72_values() -> None:
    assert quantile_interval(list(range(71)), 0.95).high == math.inf
    assert quantile_interval(list(range(72)), 0.95).high == 71


def test_the_interval_of_nothing_is_everything() -> None:
    assert quantile_interval([], 0.5) == (-math.inf, math.inf)


@given(values, st.sampled_from([0.05, 0.25, 0.5, 0.9]))
def test_the_interval_holds_the_quantile_and_mirrors(measured: list[float], share: float) -> None:
    low, high = quantile_interval(measured, share)

    assert low <= quantile(measured, share) <= high
    mirrored = quantile_interval([-value for value in measured], 1 - share)
    assert mirrored == (-high, -low)


@pytest.mark.parametrize("share", [0.5, 0.9])
def test_the_interval_covers(share: float) -> None:
    generator = random.Random(4)
    true = -math.log(1 - share)
    rounds, covered = 400, 0
    for _ in range(rounds):
        low, high = quantile_interval([generator.expovariate(1) for _ in range(40)], share)
        covered += low <= true <= high

    assert covered / rounds >= 0.94


@pytest.mark.parametrize("share", [-0.1, 1.1])
def test_a_share_is_between_0_and_1(share: float) -> None:
    with pytest.raises(ValueError, match="not between"):
        quantile([1.0], share)
    with pytest.raises(ValueError, match="not between"):
        quantile_interval([1.0], share)
