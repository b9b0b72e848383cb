"""Why something is not open, and what would be."""

from typing import NamedTuple


class Refusal(NamedTuple):
    """`reason` says what is against it, `hint` what to do instead."""

    reason: str
    hint: str
