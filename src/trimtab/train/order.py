"""Which record trains in which step.

The whole order is laid out before the first step, from the lengths and the seed alone. That is what
makes a run repeatable, and lets it go on in the middle by skipping what was done. Knows no tokens.
"""

import bisect
import random
from collections.abc import Sequence

# Sorting by length inside a window of this many batches keeps padding low and the order random.
WINDOW = 8


def batch_order(
    lengths: Sequence[int], *, examples: int, batch_size: int, seed: int
) -> list[list[int]]:
    """Batches of record indexes, `examples` in all; only the last one may be short.

    Each record comes once before any comes twice. Batches hold records of like length, and the one
    with the longest record comes first, so that running out of memory comes at once.
    """
    draw = random.Random(seed)
    stream = _stream(len(lengths), examples, draw)
    width = batch_size * WINDOW
    batches: list[list[int]] = []
    for start in range(0, len(stream), width):
        window = sorted(stream[start : start + width], key=lambda index: (lengths[index], index))
        cut = [window[i : i + batch_size] for i in range(0, len(window), batch_size)]
        draw.shuffle(cut)
        batches += cut
    short = [batch for batch in batches if len(batch) < batch_size]
    whole = [batch for batch in batches if len(batch) == batch_size]
    if whole:
        longest = max(range(len(whole)), key=lambda i: max(lengths[index] for index in whole[i]))
        whole.insert(0, whole.pop(longest))
    return whole + short


def packed_rows(
    lengths: Sequence[int], *, examples: int, max_length: int, seed: int
) -> list[list[int]]:
    """Rows of record indexes, `examples` in all, each row of at most `max_length` tokens.

    Best fit, longest first (Johnson 1974), epoch by epoch, so that each record comes once before
    any comes twice; the rows of an epoch come in random order, the fullest of all first.
    """
    draw = random.Random(seed)
    stream = _stream(len(lengths), examples, draw)
    rows: list[list[int]] = []
    for start in range(0, len(stream), len(lengths)):
        packed = _best_fit(stream[start : start + len(lengths)], lengths, max_length)
        draw.shuffle(packed)
        rows += packed
    fullest = max(range(len(rows)), key=lambda i: sum(lengths[index] for index in rows[i]))
    rows.insert(0, rows.pop(fullest))
    return rows


def _best_fit(indexes: Sequence[int], lengths: Sequence[int], max_length: int) -> list[list[int]]:
    rows: list[list[int]] = []
    # (room left, row), sorted: the first that is wide enough fits best.
    room: list[tuple[int, int]] = []
    for index in sorted(indexes, key=lambda index: -lengths[index]):
        at = bisect.bisect_left(room, (lengths[index], -1))
        if at == len(room):
            rows.append([index])
            bisect.insort(room, (max_length - lengths[index], len(rows) - 1))
            continue
        left, row = room.pop(at)
        rows[row].append(index)
        bisect.insort(room, (left - lengths[index], row))
    return rows


def _stream(records: int, examples: int, draw: random.Random) -> list[int]:
    stream: list[int] = []
    while len(stream) < examples:
        epoch = list(range(records))
        draw.shuffle(epoch)
        stream += epoch
    return stream[:examples]
