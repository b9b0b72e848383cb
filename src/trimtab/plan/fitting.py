"""What would make a way fit that needs too much memory: a step's records in smaller batches, then
shorter records, then another method.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from trimtab.plan.work import Work

# Shorter records than these hold no answer worth learning.
SHORTEST = 64

Fits = Callable[[Work], bool]


@dataclass(frozen=True, slots=True)
class Change:
    """Fields of the project's `train` section with the values that fit."""

    fields: dict[str, int | str]

    def __str__(self) -> str:
        return " and ".join(f"train.{name}: {value}" for name, value in self.fields.items())


def change_that_fits(work: Work, fits: Fits, methods: Iterable[str]) -> Change | None:
    """The least change of what is trained; `methods` are others that fit as it is. None where
    neither batches nor records can be made small enough and no method fits.
    """
    smaller = [work.in_batches_of(rows) for rows in _smaller(work)]
    for cut in smaller:
        if fits(cut):
            return Change(_batches(cut))
    # The smallest batch leaves the longest records, but not every launch can share it out.
    for cut in (*reversed(smaller), work):
        if longest := _longest(cut, fits):
            batches = {} if cut is work else _batches(cut)
            return Change({**batches, "max_length": longest - work.written})
    return next((Change({"method": name}) for name in methods), None)


def _smaller(work: Work) -> Iterator[int]:
    """Divisors below a batch's size, the largest first: with one of these a step stays the same."""
    size = work.batch_size
    return (rows for rows in range(size - 1, work.fewest - 1, -1) if size % rows == 0)


def _batches(work: Work) -> dict[str, int | str]:
    # Of answers of the model's own a batch counts each, and not the prompts.
    answers = work.rows if work.written else 1
    return {"batch_size": work.batch_size * answers, "accumulation": work.accumulation}


def _longest(work: Work, fits: Fits) -> int:
    """The longest records that fit, by halves; 0 where that would leave out more than half of them.

    Of answers of the model's own it is a prompt with the room for one.
    """
    low, high = max(SHORTEST, work.median) + work.written, work.longest - 1
    if high < low or not fits(work.cut_at(low)):
        return 0
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if fits(work.cut_at(middle)) else (low, middle - 1)
    return low
