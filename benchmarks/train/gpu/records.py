"""Records as long as those of the quickstart, of random words: their lengths decide a step's work.

Lengths are lognormal around those of Alpaca behind its template: a prompt of 60 tokens in the
median and an answer of 50. Words follow Zipf's law over two thousand, so that there is something to
learn; all tokens of an answer are labels, as in the quickstart none of the prompt is.
"""

import random

from trimtab.train.preflight import Preflight
from trimtab.train.rows import Example

PROMPT, ANSWER, SPREAD = 60, 50, 0.8
WORDS, FIRST = 2000, 100


def records(tokens: int, longest: int, seed: int) -> Preflight:
    """Records of about so many tokens together, each of at most `longest`."""
    drawing = random.Random(seed)
    weights = [1 / (rank + 1) for rank in range(WORDS)]
    found: list[Example] = []
    total = 0
    while total < tokens:
        sizes = [
            max(4, round(drawing.lognormvariate(0, SPREAD) * median)) for median in (PROMPT, ANSWER)
        ]
        size = min(longest, sum(sizes))
        prompt = min(sizes[0], size - 4)
        words = drawing.choices(range(FIRST, FIRST + WORDS), weights, k=size)
        mask = (False,) * prompt + (True,) * (size - prompt)
        found.append(Example(len(found), tuple(words), mask))
        total += size
    return Preflight(tuple(found), ())


def full(count: int, length: int, seed: int) -> Preflight:
    """Records of one length, the second half of each an answer."""
    drawing = random.Random(seed)
    half = length // 2
    return Preflight(
        tuple(
            Example(
                at,
                tuple(drawing.choices(range(FIRST, FIRST + WORDS), k=length)),
                (False,) * half + (True,) * (length - half),
            )
            for at in range(count)
        ),
        (),
    )
