"""A token as it was drawn. Needs no torch: not every engine computes here."""

from dataclasses import dataclass

from trimtab.inference import Top


@dataclass(frozen=True, slots=True)
class Drawn:
    """A token, its natural log-probability in the model's raw distribution, and the likeliest."""

    token: int
    logprob: float
    top: Top = ()
