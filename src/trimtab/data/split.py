"""Splits records by their prompts: the same prompt always lands in the same split.

A record's split depends on its prompt and the seed alone, so that adding records moves none.
"""

from collections.abc import Iterable, Mapping
from typing import Literal

from trimtab.canonical import content_hash
from trimtab.data.record import Record

Split = Literal["train", "holdout", "shadow"]
SPLITS: tuple[Split, ...] = ("train", "holdout", "shadow")


def split(
    records: Iterable[Record], *, holdout: float, shadow: float, seed: int
) -> Mapping[Split, list[Record]]:
    """Train, holdout and shadow, about in the shares asked for."""
    parts: dict[Split, list[Record]] = {name: [] for name in SPLITS}
    for record in records:
        place = int(content_hash([seed, record.prompt_hash])[:16], 16) / 2**64
        if place < holdout:
            parts["holdout"].append(record)
        elif place < holdout + shadow:
            parts["shadow"].append(record)
        else:
            parts["train"].append(record)
    return parts
