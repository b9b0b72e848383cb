import pytest
from hypothesis import given
from hypothesis import strategies as st

from trimtab.train.watch.divergence import STEPS, far_above

FALLING = [2.5 * 0.95**step for step in range(40)]


@pytest.mark.parametrize(
    ("tail", "above"),
    [
        ([9.0, 9.5, 11.0], 3),
        ([9.0, 9.5], 2),
        ([11.0], 1),
        ([], 0),
        ([9.0, 0.5, 9.0], 1),
        # Far above what it was, and no worse than at the beginning.
        ([2.0, 2.0, 2.0], 0),
    ],
)
def test_three_steps_far_above_are_a_divergence(tail: list[float], above: int) -> None:
    assert far_above(FALLING + tail) == above


def test_one_hard_batch_is_none() -> None:
    for at in range(len(FALLING)):
        losses = [*FALLING[:at], 12.0, *FALLING[at:]]
        assert all(far_above(losses[:end]) < STEPS for end in range(1, len(losses) + 1))


def test_the_first_steps_tell_nothing() -> None:
    assert far_above([1.0, 50.0, 60.0, 70.0]) == 0


@given(st.lists(st.floats(0.1, 0.29), min_size=1, max_size=80))
def test_noise_within_three_times_is_none(losses: list[float]) -> None:
    assert far_above(losses) == 0
