"""Several tests, one claim: p-values corrected so that a false claim among them stays rare."""

from collections.abc import Sequence


def holm(p_values: Sequence[float]) -> tuple[float, ...]:
    """Adjusted p-values, in the order given (Holm, Scandinavian Journal of Statistics 6, 1979).

    Rejecting those that are at most alpha keeps the chance of any false rejection at alpha,
    however the tests depend on each other.
    """
    if not all(0 <= p <= 1 for p in p_values):
        raise ValueError(f"not all p-values: {list(p_values)}")
    adjusted = [0.0] * len(p_values)
    largest = 0.0
    for rank, place in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[place]))
        adjusted[place] = largest
    return tuple(adjusted)
