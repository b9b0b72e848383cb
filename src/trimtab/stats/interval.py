"""A confidence interval as every function here returns it. Knows no method."""

from typing import NamedTuple


class Interval(NamedTuple):
    """Both ends belong to it; an end that the data do not bound is infinite."""

    low: float
    high: float


def tail_of(confidence: float) -> float:
    """The chance on either side of a two-sided interval: 0.025 for 0.95."""
    if not 0 < confidence < 1:
        raise ValueError(f"confidence is {confidence}, not between 0 and 1")
    return (1 - confidence) / 2
