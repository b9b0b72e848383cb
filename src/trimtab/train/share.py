"""Which rows of a batch are a rank's own. Knows no tokens and no processes."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Share:
    """The share of rank `rank` of `ranks`; of one process alone, everything.

    Batches hold rows of like length in order, so every `ranks`-th row gives shares of like length.
    """

    rank: int = 0
    ranks: int = 1

    def of(self, batch: Sequence[T]) -> list[T]:
        """The rank's own rows; empty where a last batch has fewer rows than there are ranks."""
        return list(batch[self.rank :: self.ranks])

    def weight(self, batch: Sequence[object]) -> float:
        """What the mean over the rank's own rows counts in the mean over ranks, so that this is
        the mean over the batch: 1, but for a last batch that is not shared out evenly.
        """
        return self.ranks * len(self.of(batch)) / len(batch)


# One process alone.
ALL = Share()
