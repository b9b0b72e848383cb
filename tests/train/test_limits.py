import pytest
from hypothesis import given
from hypothesis import strategies as st

from trimtab.train.watch.limits import Limits, Pause


def test_the_step_that_would_pass_a_limit_is_not_taken() -> None:
    limits = Limits(deadline_s=200, budget_usd=1, usd_hour=36)
    assert limits.ended(80, 19) == ""
    assert limits.ended(80, 21) == "budget"
    assert Limits(deadline_s=100).ended(80, 21) == "deadline"


def test_what_costs_nothing_never_ends_by_its_budget() -> None:
    assert Limits(budget_usd=0).ended(1e9, 1e9) == ""


@given(
    steps=st.lists(st.floats(0.01, 100), min_size=2, max_size=50),
    budget=st.floats(0.01, 10),
    usd_hour=st.floats(0.1, 100),
)
def test_steps_no_longer_than_the_first_never_cost_more_than_the_budget(
    steps: list[float], budget: float, usd_hour: float
) -> None:
    limits = Limits(budget_usd=budget, usd_hour=usd_hour)
    first, spent = max(steps), 0.0
    if limits.usd(first) > budget:
        return
    for step in [first, *steps]:
        spent += step
        if limits.ended(spent, first):
            break
    assert limits.usd(spent) <= budget * (1 + 1e-9)
    assert limits.left_usd(spent) == pytest.approx(budget - limits.usd(spent), abs=1e-9)


def test_it_pauses_behind_a_step_or_before_its_seconds_are_over() -> None:
    limits = Limits(pause=Pause(10, seconds=50))
    assert not limits.paused(9, 30, 10)
    assert limits.paused(10, 30, 10)
    assert limits.paused(3, 45, 10)
    assert not Limits().paused(1000, 1e9, 1)
