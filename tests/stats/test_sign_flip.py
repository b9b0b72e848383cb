import math
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats as scipy_stats

from trimtab.stats.sign_flip import EXACT_UP_TO, RESAMPLES, sign_flip

values = st.floats(-100, 100, allow_subnormal=False)


def _scipy(differences: list[float], resamples: float) -> float:
    result = scipy_stats.permutation_test(
        (differences,),
        lambda sample: sum(sample) / len(sample),
        permutation_type="samples",
        n_resamples=resamples,
        vectorized=False,
        rng=17,
    )
    return float(result.pvalue)


@pytest.mark.parametrize(
    "differences",
    [
        [0.3, -0.1, 0.7, 1.1, 0.2, -0.4],
        [1.0, 1.0, -1.0, 1.0, 1.0, 1.0, 0.0],
        [0.1, 0.2, -0.3, 0.4, 0.5, 0.6, 0.7, 0.9],
        [-2.0, -1.5, -0.2, 0.1, -3.0],
    ],
)
def test_exact_p_equals_scipy(differences: list[float]) -> None:
    result = sign_flip(differences)

    assert result.exact
    assert result.p == pytest.approx(_scipy(differences, math.inf))


def test_drawn_p_is_near_scipys() -> None:
    generator = random.Random(5)
    differences = [generator.gauss(0.25, 1.0) for _ in range(60)]

    result = sign_flip(differences)

    assert not result.exact
    assert result.p == pytest.approx(_scipy(differences, 9_999), abs=0.015)


def test_drawn_and_exact_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = random.Random(11)
    differences = [generator.gauss(0.5, 1.0) for _ in range(EXACT_UP_TO)]
    exact = sign_flip(differences)
    monkeypatch.setattr("trimtab.stats.sign_flip.EXACT_UP_TO", 0)
    drawn = sign_flip(differences)

    assert (exact.exact, drawn.exact) == (True, False)
    assert drawn.p == pytest.approx(exact.p, abs=0.015)
    assert drawn.interval == pytest.approx(exact.interval, abs=0.05)


@settings(max_examples=60)
@given(st.lists(values, min_size=1, max_size=10))
def test_the_interval_excludes_zero_exactly_when_p_is_small(differences: list[float]) -> None:
    result = sign_flip(differences, confidence=0.9)
    low, high = result.interval
    slack = 1e-9 * max(abs(value) for value in differences)

    assert low - slack <= result.mean <= high + slack
    if result.p > 0.1 + 1e-9:
        assert low - slack <= 0 <= high + slack
    else:
        assert low > -slack or high < slack


@settings(max_examples=60)
@given(st.lists(values, max_size=10))
def test_mirrored_differences_mirror_the_result(differences: list[float]) -> None:
    result, mirrored = sign_flip(differences), sign_flip([-value for value in differences])

    assert mirrored.p == result.p
    assert mirrored.mean == -result.mean
    assert mirrored.interval == pytest.approx((-result.interval.high, -result.interval.low))


@settings(max_examples=60)
@given(st.lists(st.integers(-50, 50), min_size=6, max_size=10), st.integers(-50, 50))
def test_the_interval_moves_with_the_differences(differences: list[int], shift: int) -> None:
    low, high = sign_flip(differences).interval
    moved = sign_flip([value + shift for value in differences])

    assert moved.interval == pytest.approx((low + shift, high + shift))


def test_the_interval_covers_the_mean_of_a_symmetric_distribution() -> None:
    generator = random.Random(3)
    rounds, covered = 400, 0
    for _ in range(rounds):
        low, high = sign_flip([generator.gauss(2.0, 3.0) for _ in range(9)]).interval
        covered += low <= 2.0 <= high

    # The exact coverage is 1 - 24/512 = 0.953; 400 rounds stray from it by a hundredth.
    assert covered / rounds == pytest.approx(0.953, abs=0.03)


def test_the_interval_is_near_students() -> None:
    generator = random.Random(8)
    differences = [generator.gauss(0.4, 1.0) for _ in range(200)]
    student = scipy_stats.ttest_1samp(differences, 0.0).confidence_interval(0.95)

    assert sign_flip(differences).interval == pytest.approx(tuple(student), abs=0.02)


def test_the_same_seed_draws_the_same() -> None:
    differences = [math.sin(i) + 0.1 for i in range(40)]

    assert sign_flip(differences, seed=1) == sign_flip(differences, seed=1)
    assert sign_flip(differences, seed=1) != sign_flip(differences, seed=2)


def test_a_drawn_p_is_never_zero() -> None:
    assert sign_flip([1.0] * 50).p == 2 / (RESAMPLES + 1)


def test_no_differences_tell_nothing() -> None:
    result = sign_flip([])

    assert (result.mean, result.p) == (0.0, 1.0)
    assert result.interval == (-math.inf, math.inf)


def test_five_differences_bound_nothing_and_six_do() -> None:
    assert sign_flip([1.0] * 5).interval == (-math.inf, math.inf)
    assert sign_flip([1.0] * 6).interval == (1.0, 1.0)
    assert sign_flip([1.0] * 6).p == 2 / 64


@pytest.mark.parametrize("count", [8, 40])
def test_equal_versions_have_no_difference(count: int) -> None:
    result = sign_flip([0.0] * count)

    assert (result.mean, result.p, result.interval) == (0.0, 1.0, (0.0, 0.0))


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_difference_that_is_no_number_is_refused(value: float) -> None:
    with pytest.raises(ValueError, match="finite"):
        sign_flip([1.0, value])
