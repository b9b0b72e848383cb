"""The retry budget: a fifth of an attempt for each request, up to a small store."""

import pytest

from trimtab.gateway.tiers import retry
from trimtab.gateway.tiers.retry import BASE_S, LONGEST_S, STORE, RetryBudget, backoff_s


def spent(budget: RetryBudget) -> int:
    count = 0
    while budget.spend():
        count += 1
    return count


def test_a_new_budget_has_its_store_and_no_more() -> None:
    assert spent(RetryBudget()) == STORE == 10


@pytest.mark.parametrize(("requests", "more"), [(0, 0), (4, 0), (5, 1), (9, 1), (10, 2), (500, 10)])
def test_five_requests_bring_one_attempt_up_to_the_store(requests: int, more: int) -> None:
    budget = RetryBudget()
    spent(budget)
    for _ in range(requests):
        budget.note_request()
    assert spent(budget) == more


def test_waiting_is_exponential_with_full_jitter_up_to_a_cap(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    drawn: list[tuple[float, float]] = []

    def uniform(low: float, high: float) -> float:
        drawn.append((low, high))
        return high

    monkeypatch.setattr(retry.random, "uniform", uniform)
    waits = [backoff_s(attempt) for attempt in range(1, 9)]
    assert waits == [min(LONGEST_S, BASE_S * 2**doubled) for doubled in range(8)]
    assert {low for low, _ in drawn} == {0}
    assert (BASE_S, LONGEST_S) == (0.05, 2.0)
