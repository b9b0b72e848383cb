"""When a loss has run away: three steps on end far above what it was, and above where it began.

One batch that is harder than the others is no divergence, and neither is a loss near nothing that
becomes three times as much. Knows losses alone.
"""

from collections.abc import Sequence
from statistics import median

# Steps that a median is taken of, the fewest it is trusted with, and the steps that must be above.
WINDOW, FEWEST, STEPS = 32, 8, 3
# How far above the running median, and above the losses that the run began with.
TIMES, START_TIMES = 3.0, 1.5


def typical(losses: Sequence[float]) -> float | None:
    """The running median before the last steps; None where there are too few."""
    before = losses[:-STEPS][-WINDOW:]
    return median(before) if len(before) >= FEWEST else None


def far_above(losses: Sequence[float]) -> int:
    """How many of the last steps, one after the other and three at most, lie far above."""
    if (middle := typical(losses)) is None:
        return 0
    bound = max(TIMES * middle, START_TIMES * median(losses[:FEWEST]))
    above = 0
    while above < STEPS and losses[-1 - above] > bound:
        above += 1
    return above
