import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats as scipy_stats
from statsmodels.stats.proportion import proportion_confint

from trimtab.stats.binomial import at_least, at_most, clopper_pearson, probability


@st.composite
def outcomes(draw: st.DrawFn, most: int = 400) -> tuple[int, int]:
    trials = draw(st.integers(0, most))
    return draw(st.integers(0, trials)), trials


shares = st.floats(1e-9, 1 - 1e-9)


@given(outcomes(), shares)
def test_tails_equal_scipy(outcome: tuple[int, int], share: float) -> None:
    successes, trials = outcome
    distribution = scipy_stats.binom(trials, share)

    assert at_most(successes, trials, share) == pytest.approx(
        distribution.cdf(successes), rel=1e-9, abs=1e-300
    )
    assert at_least(successes, trials, share) == pytest.approx(
        distribution.sf(successes - 1), rel=1e-6, abs=1e-14
    )
    assert probability(successes, trials, share) == pytest.approx(
        distribution.pmf(successes), rel=1e-9, abs=1e-300
    )


@pytest.mark.parametrize(("successes", "trials"), [(3, 12), (0, 5), (5, 5), (90, 1000)])
def test_at_least_is_the_one_sided_test(successes: int, trials: int) -> None:
    expected = scipy_stats.binomtest(successes, trials, 0.05, alternative="greater").pvalue

    assert at_least(successes, trials, 0.05) == pytest.approx(expected, rel=1e-9)


@given(outcomes(), shares)
def test_more_successes_are_less_likely_to_be_exceeded(
    outcome: tuple[int, int], share: float
) -> None:
    successes, trials = outcome

    if successes < trials:
        assert at_least(successes + 1, trials, share) <= at_least(successes, trials, share) + 1e-12


def test_certain_shares() -> None:
    assert at_least(1, 10, 0.0) == 0.0
    assert at_least(0, 10, 0.0) == 1.0
    assert at_least(10, 10, 1.0) == 1.0
    assert at_most(9, 10, 1.0) == 0.0
    assert at_most(0, 0, 0.5) == 1.0


@given(outcomes(), st.sampled_from([0.8, 0.95, 0.99]))
def test_clopper_pearson_equals_statsmodels(outcome: tuple[int, int], confidence: float) -> None:
    successes, trials = outcome
    if not trials:
        assert clopper_pearson(0, 0, confidence) == (0.0, 1.0)
        return

    expected = proportion_confint(successes, trials, 1 - confidence, method="beta")

    assert clopper_pearson(successes, trials, confidence) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("share", [0.02, 0.3, 0.5, 0.93])
@pytest.mark.parametrize("trials", [5, 30, 80])
def test_clopper_pearson_covers(trials: int, share: float) -> None:
    intervals = [clopper_pearson(successes, trials) for successes in range(trials + 1)]

    covered = sum(
        probability(successes, trials, share)
        for successes, (low, high) in enumerate(intervals)
        if low <= share <= high
    )

    assert covered >= 0.95


@pytest.mark.parametrize(("successes", "trials", "share"), [(3, 2, 0.5), (-1, 2, 0.5), (1, 2, 1.5)])
def test_impossible_counts_are_refused(successes: int, trials: int, share: float) -> None:
    with pytest.raises(ValueError, match=r"successes in|not between"):
        at_least(successes, trials, share)


@pytest.mark.parametrize("confidence", [0.0, 1.0, 95.0])
def test_a_confidence_is_between_0_and_1(confidence: float) -> None:
    with pytest.raises(ValueError, match="confidence"):
        clopper_pearson(1, 2, confidence)
