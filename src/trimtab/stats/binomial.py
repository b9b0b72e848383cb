"""The binomial distribution: exact tails, which are one-sided tests, and Clopper-Pearson.

Knows nothing of pairs; McNemar's test builds on it in `paired`.
"""

import math
from collections.abc import Callable

from trimtab.stats.interval import Interval, tail_of

# Halvings of [0, 1] until two neighbouring floats are left.
HALVINGS = 60
NEGLIGIBLE = 1e-18


def at_least(successes: int, trials: int, share: float) -> float:
    """P(X >= successes) for X ~ Binomial(trials, share).

    It is the p-value of the exact one-sided test that the true share is greater than `share`.
    """
    _check(successes, trials, share)
    return _cumulative(trials - successes, trials, 1 - share, share)


def at_most(successes: int, trials: int, share: float) -> float:
    """P(X <= successes) for X ~ Binomial(trials, share).

    It is the p-value of the exact one-sided test that the true share is less than `share`.
    """
    _check(successes, trials, share)
    return _cumulative(successes, trials, share, 1 - share)


def probability(successes: int, trials: int, share: float) -> float:
    """P(X = successes) for X ~ Binomial(trials, share), with 0 < share < 1."""
    return _term(successes, trials, share, 1 - share)


def clopper_pearson(successes: int, trials: int, confidence: float = 0.95) -> Interval:
    """The exact interval of a share (Clopper and Pearson, Biometrika 26, 1934).

    Each end is the share whose own one-sided test has half of 1 - confidence as its p-value.
    Covers at least as often as it says. Without trials it is [0, 1].
    """
    tail = tail_of(confidence)
    _check(successes, trials, 0.5)
    low = high = 0.0
    if successes > 0:
        low = _crossing(lambda share: at_least(successes, trials, share) < tail)
    high = 1.0
    if successes < trials:
        high = _crossing(lambda share: at_most(successes, trials, share) > tail)
    return Interval(low, high)


def _cumulative(k: int, n: int, share: float, rest: float) -> float:
    """P(X <= k). `rest` is 1 - share, passed along because a small share would be lost in it."""
    if k == n or share == 0:
        return 1.0
    if rest == 0:
        return 0.0
    if k > n * share:
        return 1 - _lower_tail(n - k - 1, n, rest, share)
    return _lower_tail(k, n, share, rest)


def _lower_tail(k: int, n: int, share: float, rest: float) -> float:
    """P(X <= k) below the mean, where the terms shrink: summed from the largest down."""
    term = total = _term(k, n, share, rest)
    for successes in range(k, 0, -1):
        term *= successes / (n - successes + 1) * rest / share
        total += term
        if term < total * NEGLIGIBLE:
            break
    return min(total, 1.0)


def _term(k: int, n: int, share: float, rest: float) -> float:
    ways = math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)
    return math.exp(ways + k * math.log(share) + (n - k) * math.log(rest))


def _crossing(before: Callable[[float], bool]) -> float:
    """Where `before`, true from 0 up to some share, becomes false."""
    low, high = 0.0, 1.0
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if before(middle) else (low, middle)
    return (low + high) / 2


def _check(successes: int, trials: int, share: float) -> None:
    if not 0 <= successes <= trials:
        raise ValueError(f"{successes} successes in {trials} trials")
    if not 0 <= share <= 1:
        raise ValueError(f"a share of {share} is not between 0 and 1")
