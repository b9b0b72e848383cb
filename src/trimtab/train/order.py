"""Which record trains in which step.

The whole order is laid out before the first step, from the lengths and the seed alone. That is what
makes a run repeatable, and lets it go on in the middle by skipping what was done. Knows no tokens.
"""

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


def _stream(records: int, examples: int, draw: random.Random) -> list[int]:
    stream: list[int] = []
    while len(stream) < examples:
        epoch = list(range(records))
        draw.shuffle(epoch)
        stream += epoch
    return stream[:examples]
