import math
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import optimize
from scipy import stats as scipy_stats
from statsmodels.stats.contingency_tables import mcnemar

from trimtab.stats.paired import mcnemar_exact, tango_interval

counts = st.integers(0, 200)


@st.composite
def tables(draw: st.DrawFn) -> tuple[int, int, int]:
    first_only, second_only, alike = draw(st.tuples(counts, counts, counts))
    return first_only, second_only, first_only + second_only + alike


@given(counts, counts)
def test_mcnemar_equals_statsmodels(first_only: int, second_only: int) -> None:
    expected = mcnemar([[0, first_only], [second_only, 0]], exact=True).pvalue

    p = mcnemar_exact(first_only, second_only)

    assert p == pytest.approx(1.0 if first_only == second_only else expected, rel=1e-9)
    assert p == mcnemar_exact(second_only, first_only)


def test_mcnemar_without_discordant_items_claims_nothing() -> None:
    assert mcnemar_exact(0, 0) == 1.0


@given(counts, counts)
def test_mcnemar_falls_as_the_larger_side_grows(first_only: int, second_only: int) -> None:
    larger, smaller = max(first_only, second_only), min(first_only, second_only)

    assert mcnemar_exact(larger + 1, smaller) <= mcnemar_exact(larger, smaller) + 1e-12


def test_tango_interval_equals_a_published_one() -> None:
    # Fagerland, Lydersen and Laake, Statistics in Medicine 33, 2014: airway hyper-responsiveness
    # before and after transplantation, 1 and 7 discordant patients among 21.
    assert tango_interval(1, 7, 21) == pytest.approx((-0.517, -0.026), abs=5e-4)


@pytest.mark.parametrize(
    ("first_only", "second_only", "items"),
    [(40, 20, 160), (3, 1, 12), (1, 7, 21), (5, 0, 60), (120, 140, 900)],
)
@pytest.mark.parametrize("confidence", [0.9, 0.95])
def test_tango_interval_equals_a_score_test_solved_by_scipy(
    first_only: int, second_only: int, items: int, confidence: float
) -> None:
    limit = scipy_stats.norm.ppf((1 + confidence) / 2)
    observed = (first_only - second_only) / items

    def distance(difference: float) -> float:
        return abs(_score(first_only, second_only, items, difference)) - limit

    low = optimize.brentq(distance, -0.999, observed - 1e-6)
    high = optimize.brentq(distance, observed + 1e-6, 0.999)

    interval = tango_interval(first_only, second_only, items, confidence)
    assert interval == pytest.approx((low, high), abs=1e-5)


def _score(first_only: int, second_only: int, items: int, difference: float) -> float:
    """The score statistic with its nuisance share from a numerical maximum of the likelihood."""

    def loss(second: float) -> float:
        first = second + difference
        alike = 1 - first - second
        weighted = ((first_only, first), (second_only, second))
        return -sum(count * math.log(share) for count, share in weighted if count) - (
            items - first_only - second_only
        ) * math.log(alike)

    edge = 1e-12
    bounds = (max(0.0, -difference) + edge, (1 - difference) / 2 - edge)
    second = optimize.minimize_scalar(
        loss, bounds=bounds, method="bounded", options={"xatol": 1e-12}
    ).x
    variance = (2 * second + difference - difference**2) / items
    return ((first_only - second_only) / items - difference) / math.sqrt(variance)


def test_tango_interval_without_discordant_items_is_wilsons() -> None:
    # No discordant item among n: the end is z^2 / (n + z^2), as for 0 successes of n by Wilson.
    z = scipy_stats.norm.ppf(0.975)

    assert tango_interval(0, 0, 50) == pytest.approx((-(z**2) / (50 + z**2), z**2 / (50 + z**2)))


def test_tango_interval_of_nothing_is_everything() -> None:
    assert tango_interval(0, 0, 0) == (-1.0, 1.0)


@given(tables())
def test_tango_interval_holds_the_difference_and_mirrors(table: tuple[int, int, int]) -> None:
    first_only, second_only, items = table
    low, high = tango_interval(first_only, second_only, items)

    assert -1 <= low <= high <= 1
    if items:
        assert low <= (first_only - second_only) / items <= high
    mirrored = tango_interval(second_only, first_only, items)
    assert mirrored == (-high, -low)


@given(tables())
def test_tango_interval_widens_with_confidence(table: tuple[int, int, int]) -> None:
    narrow, wide = tango_interval(*table, confidence=0.8), tango_interval(*table, confidence=0.99)

    assert wide.low <= narrow.low
    assert narrow.high <= wide.high


@pytest.mark.parametrize(
    ("first_only", "second_only", "items"),
    [(0.1, 0.1, 40), (0.2, 0.05, 40), (0.02, 0.01, 60), (0.4, 0.1, 25)],
)
def test_tango_interval_covers(first_only: float, second_only: float, items: int) -> None:
    """The exact coverage, summed over all outcomes: near 0.95, as a score interval's is."""
    covered = 0.0
    for b, c in product(range(items + 1), repeat=2):
        if b + c > items:
            continue
        chance = scipy_stats.multinomial.pmf(
            [b, c, items - b - c], items, [first_only, second_only, 1 - first_only - second_only]
        )
        if chance > 1e-9:
            low, high = tango_interval(b, c, items)
            covered += chance * (low <= first_only - second_only <= high)

    assert covered >= 0.93


@pytest.mark.parametrize("table", [(3, 3, 5), (-1, 2, 5)])
def test_impossible_tables_are_refused(table: tuple[int, int, int]) -> None:
    with pytest.raises(ValueError, match="discordant items among 5"):
        tango_interval(*table)
