"""A few records held out of training, so that its loss on what it never saw can be watched.

They are training records of the dataset, not those of the evaluation, which no run may see.
"""

import random
from dataclasses import replace

from trimtab.errors import DataError
from trimtab.train.preflight import Preflight
from trimtab.train.rows import Row

# The least that can be compared, and as many as tell two runs apart without costing a step.
FEWEST, MOST = 2, 64


def hold_out(checked: Preflight, share: float, seed: int) -> tuple[Preflight, tuple[Row, ...]]:
    """What is left to train on, and the rows of the records that the seed holds out.

    Raises DataError where fewer records are there than two of each.
    """
    if not share:
        return checked, ()
    records = sorted({row.record for row in checked.examples})
    count = max(FEWEST, min(MOST, round(share * len(records))))
    if len(records) < count + FEWEST:
        raise DataError(
            f"{len(records)} training records are too few to hold {count} of them out",
            hint="add records, or leave train.patience out",
        )
    held = set(random.Random(seed).sample(records, count))
    kept = tuple(row for row in checked.examples if row.record not in held)
    rows = tuple(row for row in checked.examples if row.record in held)
    return replace(checked, examples=kept), rows
