"""Quantiles of measurements: a measured value, and an interval that assumes no distribution.

Knows nothing of what was measured.
"""

import math
from collections.abc import Sequence

from trimtab.stats.binomial import probability
from trimtab.stats.interval import Interval, tail_of


def quantile(values: Sequence[float], share: float) -> float:
    """The smallest measured value that at least `share` of all values do not exceed.

    Hyndman and Fan's first definition (The American Statistician 50, 1996): nothing interpolated.
    Raises ValueError without values.
    """
    if not values:
        raise ValueError("no values, so no quantile")
    if not 0 <= share <= 1:
        raise ValueError(f"a share of {share} is not between 0 and 1")
    return sorted(values)[max(_rank(len(values), share), 1) - 1]


def quantile_interval(values: Sequence[float], share: float, confidence: float = 0.95) -> Interval:
    """Interval of the true quantile between two measured values, for 0 < share < 1.

    The values below the quantile number Binomial(n, share), so that its tails choose the order
    statistics (David and Nagaraja, Order Statistics, section 7.1). An end that so few values cannot
    bound is infinite: the 0.95 quantile has an upper end from 72 values on.
    """
    tail = tail_of(confidence)
    if not 0 < share < 1:
        raise ValueError(f"a share of {share} is not between 0 and 1")
    ordered = [-math.inf, *sorted(values), math.inf]
    low = _ranks_within(len(values), share, tail)
    high = len(values) + 1 - _ranks_within(len(values), 1 - share, tail)
    return Interval(ordered[low], ordered[high])


def _rank(count: int, share: float) -> int:
    """The ceiling of count x share, where 0.07 x 100 is 7 and not a rounding error above it."""
    exact = count * share
    nearest = round(exact)
    return nearest if math.isclose(exact, nearest, rel_tol=1e-12) else math.ceil(exact)


def _ranks_within(count: int, share: float, tail: float) -> int:
    """The most k with P(X < k) <= tail for X ~ Binomial(count, share)."""
    below = 0.0
    for k in range(count + 1):
        below += probability(k, count, share)
        if below > tail:
            return k
    return count
