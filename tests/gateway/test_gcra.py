"""The rate limiter against the other form of the same law, and the properties that it promises."""

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trimtab.gateway.billing.gcra import PERIOD_US, Meter, Reading, drained, give_back, read, take

STEPS = st.lists(st.tuples(st.integers(0, 20_000_000), st.integers(1, 12)), max_size=60)


@given(quota=st.integers(1, 50), steps=STEPS)
def test_it_decides_as_the_theoretical_arrival_time_does(
    quota: int, steps: list[tuple[int, int]]
) -> None:
    """GCRA as a virtual schedule, in exact fractions: refuse if t + weight > limit behind TAT."""
    emission, now, tat, meter = Fraction(PERIOD_US, quota), 0, Fraction(0), Meter()
    for wait, units in steps:
        now += wait
        meter, given_ = take(meter, quota, units, now)
        after = max(tat, Fraction(now)) + units * emission
        conforms = after - now <= quota * emission
        assert given_ == conforms
        if conforms:
            tat = after


@given(quota=st.integers(1, 50), steps=STEPS)
def test_no_window_of_any_length_gets_more_than_rate_and_burst(
    quota: int, steps: list[tuple[int, int]]
) -> None:
    meter, now, given_at = Meter(), 0, []
    for wait, units in steps:
        now += wait
        meter, given_ = take(meter, quota, units, now)
        if given_:
            given_at.append((now, units))
    for first, (begin, _) in enumerate(given_at):
        total = 0
        for end, units in given_at[first:]:
            total += units
            assert total <= quota + Fraction(quota * (end - begin), PERIOD_US)


@given(quota=st.integers(1, 1000), units=st.integers(1, 1000), level=st.integers(0, 10**6))
def test_retry_after_is_enough_and_a_second_less_is_not(quota: int, units: int, level: int) -> None:
    meter = Meter(min(level * 1000, quota * PERIOD_US), 0)
    meter, given_ = take(meter, quota, units, 0)
    if given_:
        return
    retry_s = read(meter, quota, refused=units).retry_s
    if units > quota:
        assert retry_s is None
        return
    assert retry_s is not None
    assert take(meter, quota, units, retry_s * 1_000_000)[1]
    assert not take(meter, quota, units, (retry_s - 1) * 1_000_000)[1]


def test_what_comes_back_is_never_more_than_was_there() -> None:
    meter, _ = take(Meter(), 10, 4, 0)
    assert give_back(meter, 10, 3, 0).level == PERIOD_US
    assert give_back(meter, 10, 9, 0).level == 0


@pytest.mark.parametrize("jump", [-3600, -61, -59, -1, 3600])
def test_a_clock_that_jumps_gives_one_burst_at_most_and_locks_for_a_minute_at_most(
    jump: int,
) -> None:
    start = 10**15
    meter = Meter(0, start)
    for _ in range(10):
        meter, _ = take(meter, 10, 1, start)
    away = start + jump * 1_000_000
    given_ = 0
    for _ in range(20):
        meter, more = take(meter, 10, 1, away)
        given_ += more
    assert given_ == (10 if jump > 0 else 0)
    back = 0
    for second in range(1, 122):
        meter, more = take(meter, 10, 1, start + second * 1_000_000)
        back += more
    assert back >= 10
    assert back <= 20 + 10


def test_a_reading_is_in_whole_units_and_seconds() -> None:
    meter, _ = take(Meter(), 60, 1, 0)
    assert (read(meter, 60).left, read(meter, 60).reset_s) == (59, 1)
    meter, _ = take(Meter(), 7, 1, 0)
    assert (read(meter, 7).left, read(meter, 7).reset_s) == (6, 9)
    assert read(Meter(PERIOD_US // 2), 2) == Reading(quota=2, left=1, reset_s=15, retry_s=0)
    assert read(Meter(7 * 1_000_001), 7).reset_s == 2


def test_a_bucket_leaks_from_the_first_microsecond_on_and_waits_for_a_period() -> None:
    assert drained(Meter(100, 0), 7, 1) == Meter(93, 1)
    ahead = Meter(5, 3 * PERIOD_US)
    assert drained(ahead, 7, 2 * PERIOD_US) == ahead
    assert drained(ahead, 7, 2 * PERIOD_US - 1) == Meter(5, 2 * PERIOD_US - 1)
