"""Rows of tokens laid out as one flat stream: nothing is padded, and what rows share stands once.

Under causal attention the states of a beginning depend on nothing behind it, so rows that begin
alike (a system message, the prompt of a preference pair) need it computed once. The stream is the
tree of those beginnings, branch after branch; each branch attends to itself and to what it grew
from. Knows nothing of models or torch.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

# Below this many tokens a branch of its own costs more than it saves.
SHORTEST = 16
IGNORED = -100
# Queries that attend in one go; those of a longer branch are taken piece by piece, so that few of
# the scores that causality hides are computed.
TILE = 256

Span = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Block:
    """Queries `first` to `last`, places among the queries, see the keys of `past`, whole spans of
    the stream, and of `own`, the last of which belong to the queries themselves, causally.
    """

    first: int
    last: int
    past: tuple[Span, ...]
    own: Span


@dataclass(slots=True)
class Stream:
    """`tokens` with their `positions`; `sources[i]` is the place whose state predicts `targets[i]`.

    The labels come row by row, in the order of each row.
    """

    tokens: list[int] = field(default_factory=list)
    positions: list[int] = field(default_factory=list)
    sources: list[int] = field(default_factory=list)
    targets: list[int] = field(default_factory=list)
    _branches: list[tuple[Span, tuple[Span, ...]]] = field(default_factory=list)

    def blocks(self, tile: int = TILE) -> list[Block]:
        """Every token asks, at most `tile` in one block."""
        return [
            Block(first, min(first + tile, end), past, (start, min(first + tile, end)))
            for (start, end), past in self._branches
            for first in range(start, end, tile)
        ]

    def asked(self, tile: int = TILE) -> tuple[list[int], list[Block]]:
        """The places from the first that predicts a label in each branch, and their blocks.

        That is all that the last layer need compute beyond keys and values.
        """
        predicting = set(self.sources)
        places: list[int] = []
        blocks = []
        for (start, end), past in self._branches:
            found = [place for place in range(start, end) if place in predicting]
            if not found:
                continue
            for first in range(found[0], found[-1] + 1, tile):
                last = min(first + tile, found[-1] + 1)
                blocks.append(Block(len(places), len(places) + last - first, past, (start, last)))
                places += range(first, last)
        return places, blocks


def lay_out(
    rows: Sequence[Sequence[int]], labels: Sequence[Sequence[int]], *, share: bool = True
) -> Stream:
    """The stream of rows; `labels` are as long as their rows, IGNORED where nothing is predicted.

    What stands behind the last label of a row, padding most often, is left out: nothing sees it.
    Without `share` every row stands whole.
    """
    ends = [
        max((i for i, label in enumerate(row) if label != IGNORED), default=0) for row in labels
    ]
    read = [tuple(row[:end]) for row, end in zip(rows, ends, strict=True)]
    stream = Stream()
    places: list[list[int]] = [[] for _ in read]
    order = sorted(range(len(read)), key=lambda row: read[row]) if share else range(len(read))
    _grow(stream, read, places, list(order), (), share)
    for row, found in zip(labels, places, strict=True):
        for place, label in enumerate(row[1 : len(found) + 1]):
            if label != IGNORED:
                stream.sources.append(found[place])
                stream.targets.append(label)
    return stream


def _grow(
    stream: Stream,
    rows: Sequence[tuple[int, ...]],
    places: list[list[int]],
    group: list[int],
    past: tuple[Span, ...],
    share: bool,
) -> None:
    """Add what the rows of a group, sorted, hold beyond the beginning that they have in common."""
    while group:
        depth = len(places[group[0]])
        count, end = 1, len(rows[group[0]])
        while share and count < len(group):
            same = common(rows[group[count - 1]], rows[group[count]])
            if same < depth + SHORTEST:
                break
            count, end = count + 1, min(end, same)
        alike, group = group[:count], group[count:]
        start = len(stream.tokens)
        stream.tokens += rows[alike[0]][depth:end]
        stream.positions += range(depth, end)
        span = (start, len(stream.tokens))
        if span[1] > start:
            stream._branches.append((span, past))
        for row in alike:
            places[row] += range(*span)
        if count > 1:
            longer = [row for row in alike if len(rows[row]) > end]
            _grow(stream, rows, places, longer, _joined(past, span), share)


def _joined(past: tuple[Span, ...], span: Span) -> tuple[Span, ...]:
    if past and past[-1][1] == span[0]:
        return (*past[:-1], (past[-1][0], span[1]))
    return (*past, span)


def common(one: Sequence[int], other: Sequence[int]) -> int:
    """How many leading tokens are the same."""
    for place, (a, b) in enumerate(zip(one, other, strict=False)):
        if a != b:
            return place
    return min(len(one), len(other))
