"""How many items would tell: sample sizes for the paired tests.

The answers hold if the versions differ as much as they seemed to so far, which is a guess where
little was seen. Knows no verdicts.
"""

import math
from statistics import NormalDist

from trimtab.stats.binomial import at_least, probability
from trimtab.stats.paired import mcnemar_exact

# Above this the exact test and its normal approximation agree within a per cent.
EXACT_UP_TO = 5_000
# Shares that make up one may miss it by this.
ROUNDING = 1e-9
# Shares of discordant items so far from the expected one do not count.
DEVIATIONS = 7


def items_needed(
    first_only: float, second_only: float, *, alpha: float = 0.05, power: float = 0.8
) -> int | None:
    """Items with which McNemar's exact test at `alpha` finds the difference with chance `power`.

    `first_only` and `second_only` are the shares of items that one version alone has right. Starts
    from Connor's formula (Biometrics 43, 1987), which is for the test without exactness, and grows
    in steps of 2 % until the exact power suffices. None where the shares are equal: no number of
    items tells versions apart that do not differ.
    """
    _check_chances(alpha, power)
    discordant, difference = first_only + second_only, abs(first_only - second_only)
    if min(first_only, second_only) < 0 or discordant > 1 + ROUNDING:
        raise ValueError(f"{first_only} and {second_only} are no shares of the same items")
    if not difference:
        return None
    spread = _z(1 - alpha / 2) * math.sqrt(discordant) + _z(power) * math.sqrt(
        max(discordant - difference**2, 0.0)
    )
    items = math.ceil((spread / difference) ** 2)
    while items <= EXACT_UP_TO and mcnemar_power(first_only, second_only, items, alpha) < power:
        items = max(items + 1, math.ceil(items * 1.02))
    return items


def items_needed_for_mean(
    mean: float, deviation: float, *, alpha: float = 0.05, power: float = 0.8
) -> int | None:
    """Items with which a two-sided test at `alpha` finds a mean difference with chance `power`.

    `deviation` is the standard deviation of the differences. The normal approximation
    ((z of alpha + z of power) deviation / mean)^2, which the sign-flip test reaches as items grow,
    and at least as many items as can give a p-value of alpha by flipping signs. None where the
    mean is zero.
    """
    _check_chances(alpha, power)
    if deviation < 0:
        raise ValueError(f"a deviation of {deviation} is negative")
    if not mean:
        return None
    fewest = math.floor(math.log2(2 / alpha)) + 1
    return max(fewest, math.ceil(((_z(1 - alpha / 2) + _z(power)) * deviation / mean) ** 2))


def mcnemar_power(first_only: float, second_only: float, items: int, alpha: float = 0.05) -> float:
    """The chance that McNemar's exact test at `alpha` rejects, with these shares of `items`.

    Sums over the number of discordant items, as Duffy does (Biometrics 40, 1984).
    """
    larger, discordant = max(first_only, second_only), first_only + second_only
    if not discordant:
        return 0.0
    share = min(larger / discordant, 1.0)
    if discordant >= 1:
        return _rejection(items, share, alpha)
    middle = items * discordant
    reach = DEVIATIONS * math.sqrt(middle * (1 - discordant)) + 1
    counts = range(max(0, math.floor(middle - reach)), min(items, math.ceil(middle + reach)) + 1)
    return sum(probability(m, items, discordant) * _rejection(m, share, alpha) for m in counts)


def _rejection(discordant: int, share: float, alpha: float) -> float:
    """The chance of a p-value of at most alpha, when each falls to the larger side with `share`."""
    fewest = _critical(discordant, alpha)
    if fewest > discordant:
        return 0.0
    return at_least(fewest, discordant, share) + at_least(fewest, discordant, 1 - share)


def _critical(discordant: int, alpha: float) -> int:
    """The fewest on one side for which the test rejects; one more than there are where none do."""
    low, high = (discordant + 1) // 2, discordant + 1
    while low < high:
        middle = (low + high) // 2
        if mcnemar_exact(middle, discordant - middle) <= alpha:
            high = middle
        else:
            low = middle + 1
    return low


def _z(chance: float) -> float:
    return NormalDist().inv_cdf(chance)


def _check_chances(alpha: float, power: float) -> None:
    if not (0 < alpha < 1 and 0 < power < 1):
        raise ValueError(f"alpha {alpha} and power {power} are not both between 0 and 1")
