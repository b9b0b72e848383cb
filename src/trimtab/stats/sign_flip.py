"""The mean of paired differences: a sign-flip test, and the interval that agrees with it.

If the true mean is m and the differences lie symmetrically around it, then each difference minus m
is as likely with the other sign. Flipping the signs of a subset lowers the sum exactly when the
subset's own mean is above m, so test and interval both read off the means of random subsets
(Fisher 1935; Hartigan, Journal of the American Statistical Association 64, 1969). Knows nothing of
where the differences come from.
"""

import math
import random
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from trimtab.stats.interval import Interval, tail_of

# All subsets up to here: 2^14 of them. Above, so many random ones.
EXACT_UP_TO = 14
RESAMPLES = 9_999
# Sums that differ by rounding alone are ties.
ROUNDING = 1e-12


@dataclass(frozen=True, slots=True)
class SignFlip:
    """`exact` says that all sign flips were counted, none drawn."""

    mean: float
    p: float
    interval: Interval
    exact: bool


def sign_flip(differences: Sequence[float], confidence: float = 0.95, seed: int = 17) -> SignFlip:
    """Two-sided test that the mean difference is zero, with an interval of the mean.

    The interval excludes zero exactly when p < 1 - confidence. It is unbounded where there are too
    few differences for any p that small: below 6 of them at 0.95. Above `EXACT_UP_TO` differences
    it draws with `seed`, and p is never below 2 / (RESAMPLES + 1) (Phipson and Smyth 2010).
    """
    tail = tail_of(confidence)
    if not all(math.isfinite(value) for value in differences):
        raise ValueError("a difference is not finite")
    if not differences:
        return SignFlip(0.0, 1.0, Interval(-math.inf, math.inf), exact=True)
    exact = len(differences) <= EXACT_UP_TO
    means = sorted(_all_means(differences) if exact else _random_means(differences, seed))
    slack = ROUNDING * max(abs(value) for value in differences)
    at_most_zero = bisect_right(means, slack)
    at_least_zero = len(means) - bisect_left(means, -slack)
    # The differences as they are, flipped nowhere, count as one draw more.
    p = min(1.0, 2 * (1 + min(at_most_zero, at_least_zero)) / (1 + len(means)))
    mean = math.fsum(differences) / len(differences)
    return SignFlip(mean, p, _interval(means, tail), exact)


def _interval(means: Sequence[float], tail: float) -> Interval:
    """The means that the test does not reject, of sorted subset means."""
    cut = math.ceil((1 + len(means)) * tail * (1 - ROUNDING)) - 1
    if cut < 1:
        return Interval(-math.inf, math.inf)
    return Interval(means[cut - 1], means[-cut])


def _all_means(values: Sequence[float]) -> Iterator[float]:
    for members, total in enumerate(_subset_sums(values)):
        if members:
            yield total / members.bit_count()


def _random_means(values: Sequence[float], seed: int) -> Iterator[float]:
    """Means of random subsets. A byte of random bits picks from eight values by table."""
    tables = [_subset_sums(values[start : start + 8]) for start in range(0, len(values), 8)]
    generator = random.Random(seed)
    for _ in range(RESAMPLES):
        members = generator.randrange(1, 1 << len(values))
        picks = members.to_bytes(len(tables), "little")
        total = sum(table[pick] for table, pick in zip(tables, picks, strict=True))
        yield total / members.bit_count()


def _subset_sums(values: Sequence[float]) -> list[float]:
    """The sum of every subset; the bits of an index are the members."""
    sums = [0.0]
    for value in values:
        sums += [total + value for total in sums]
    return sums
