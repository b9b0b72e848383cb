"""The fields of `sweep`: which values of `train` are tried side by side, under one budget."""

from typing import Annotated, Any

from pydantic import Field

from trimtab.project.section import Section

# What a sweep may try: all that leaves the loss on the same held-out records comparable.
SWEPT = (
    "method",
    "rank",
    "alpha",
    "dropout",
    "targets",
    "epochs",
    "batch_size",
    "accumulation",
    "learning_rate",
)


class Sweep(Section):
    """Values of fields of `train` to try, `trials` of their combinations; after each rung one in
    `eta` goes on. The budgets are for all trials together.
    """

    over: Annotated[dict[str, Annotated[list[Any], Field(min_length=1)]], Field(min_length=1)]
    trials: Annotated[int, Field(ge=2, le=1000)] = 9
    eta: Annotated[int, Field(ge=2)] = 3
    budget_usd: Annotated[float, Field(gt=0)] | None = None
    budget_hours: Annotated[float, Field(gt=0)] | None = None
