"""Two versions, right or wrong on the same items: McNemar's test and Tango's interval.

Both see the discordant items alone: `first_only` are right in the first version only, and
`second_only` in the second only. Knows nothing of measurements that are no yes or no (`sign_flip`).
"""

import math
from statistics import NormalDist

from trimtab.stats.binomial import at_most
from trimtab.stats.interval import Interval, tail_of

HALVINGS = 60


def mcnemar_exact(first_only: int, second_only: int) -> float:
    """Two-sided p-value that both versions are right equally often.

    McNemar's test (Psychometrika 12, 1947) in its exact form: given the number of discordant items,
    each falls to either side with a chance of one half. Without discordant items it is 1.
    """
    smaller, discordant = min(first_only, second_only), first_only + second_only
    return min(1.0, 2 * at_most(smaller, discordant, 0.5))


def tango_interval(
    first_only: int, second_only: int, items: int, confidence: float = 0.95
) -> Interval:
    """Interval of P(first right) - P(second right), within [-1, 1].

    The score interval of Tango (Statistics in Medicine 17, 1998, 891-908): all differences that a
    score test does not reject. Keeps its coverage with few items and with none discordant; without
    items it is [-1, 1].
    """
    if min(first_only, second_only) < 0 or first_only + second_only > items:
        raise ValueError(f"{first_only} + {second_only} discordant items among {items}")
    limit = NormalDist().inv_cdf(1 - tail_of(confidence))
    if not items:
        return Interval(-1.0, 1.0)
    high = _upper(first_only, second_only, items, limit)
    low = -_upper(second_only, first_only, items, limit)
    return Interval(low, high)


def _upper(first_only: int, second_only: int, items: int, limit: float) -> float:
    """The largest difference whose score is not below -limit; the score falls as it grows."""
    low, high = (first_only - second_only) / items, 1.0
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        if _score(first_only, second_only, items, middle) < -limit:
            high = middle
        else:
            low = middle
    return high


def _score(b: int, c: int, n: int, difference: float) -> float:
    """Tango's statistic: (b - c - n d) / sqrt(n (2 q + d (1 - d))).

    q estimates P(second only) by maximum likelihood under the difference d: the larger root of
    2 n q^2 + (-b - c + (2 n - b + c) d) q - c d (1 - d) = 0.
    """
    distance = b - c - n * difference
    linear = (2 * n - b + c) * difference - b - c
    constant = -c * difference * (1 - difference)
    root = math.sqrt(max(linear * linear - 8 * n * constant, 0.0))
    q = (root - linear) / (4 * n)
    variance = n * (2 * q + difference * (1 - difference))
    if variance <= 0:
        return math.copysign(math.inf, distance) if distance else 0.0
    return distance / math.sqrt(variance)
