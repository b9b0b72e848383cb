import math
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trimtab.stats.paired import mcnemar_exact
from trimtab.stats.power import items_needed, items_needed_for_mean, mcnemar_power
from trimtab.stats.sign_flip import sign_flip


def _rejections(first_only: float, second_only: float, items: int, rounds: int = 2_000) -> float:
    generator = random.Random(23)
    rejected = 0
    for _ in range(rounds):
        draws = [generator.random() for _ in range(items)]
        first = sum(draw < first_only for draw in draws)
        second = sum(first_only <= draw < first_only + second_only for draw in draws)
        rejected += mcnemar_exact(first, second) <= 0.05
    return rejected / rounds


@pytest.mark.parametrize(
    ("first_only", "second_only", "items"), [(0.2, 0.05, 90), (0.3, 0.1, 60), (0.6, 0.4, 100)]
)
def test_power_is_how_often_the_test_rejects(
    first_only: float, second_only: float, items: int
) -> None:
    simulated = _rejections(first_only, second_only, items)

    assert mcnemar_power(first_only, second_only, items) == pytest.approx(simulated, abs=0.03)


@settings(max_examples=30)
@given(st.floats(0.05, 0.5), st.floats(0.0, 0.5))
def test_the_items_needed_suffice_and_few_fewer_do_not(first: float, second: float) -> None:
    if abs(first - second) < 0.05:
        return
    needed = items_needed(first, second)

    assert needed is not None
    assert needed == items_needed(second, first)
    assert mcnemar_power(first, second, needed) >= 0.8
    assert mcnemar_power(first, second, math.floor(needed * 0.9) - 2) < 0.83


@pytest.mark.parametrize("share", [0.0, 0.01, 0.1, 0.3])
def test_smaller_differences_need_more_items(share: float) -> None:
    assert _needed(share + 0.2, share) <= _needed(share + 0.15, share)


def _needed(first_only: float, second_only: float) -> float:
    return items_needed(first_only, second_only) or math.inf


def test_more_power_needs_more_items() -> None:
    more = items_needed(0.2, 0.1, power=0.9)
    stricter = items_needed(0.2, 0.1, alpha=0.01)

    assert more is not None
    assert stricter is not None
    assert min(more, stricter) > _needed(0.2, 0.1)


def test_equal_versions_are_told_apart_by_no_number_of_items() -> None:
    assert items_needed(0.1, 0.1) is None
    assert items_needed(0.0, 0.0) is None
    assert items_needed_for_mean(0.0, 1.0) is None


def test_a_version_that_is_always_better_needs_six_items() -> None:
    assert items_needed(1.0, 0.0) == 6
    assert items_needed_for_mean(1.0, 0.0) == 6


def test_a_tiny_difference_is_answered_at_once() -> None:
    assert _needed(0.001001, 0.001) > 1e9


def test_power_without_discordance_is_none() -> None:
    assert mcnemar_power(0.0, 0.0, 100) == 0.0


def test_the_items_for_a_mean_give_its_power(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trimtab.stats.sign_flip.RESAMPLES", 399)
    needed = items_needed_for_mean(0.5, 1.0)
    assert needed == 32
    generator = random.Random(2)
    rounds = 600
    found = sum(
        sign_flip([generator.gauss(0.5, 1.0) for _ in range(needed)]).p <= 0.05
        for _ in range(rounds)
    )

    # A little below 0.8: the formula knows the deviation, the test does not.
    assert found / rounds == pytest.approx(0.78, abs=0.05)


def test_shares_that_round_past_one_are_one() -> None:
    assert items_needed(0.9, 0.1 + 1e-12) == items_needed(0.9, 0.1)


def test_impossible_arguments_are_refused() -> None:
    with pytest.raises(ValueError, match="shares of the same items"):
        items_needed(0.7, 0.6)
    with pytest.raises(ValueError, match="power"):
        items_needed(0.2, 0.1, power=1.0)
    with pytest.raises(ValueError, match="negative"):
        items_needed_for_mean(1.0, -1.0)
