"""When to try again, and how long to wait before it.

One budget for all second attempts of a gateway, whatever the tier: each request brings a fifth of
an attempt, up to a small store (Finagle's and Envoy's retry budgets), so that a failing engine is
asked 1.2 times a request at most, and not once more for each layer. Waiting is exponential with
full jitter (AWS Architecture Blog, "Exponential Backoff And Jitter").
"""

import random

SHARE = 5
STORE = 10
BASE_S = 0.05
LONGEST_S = 2.0


class RetryBudget:
    """Counts in fifths of an attempt."""

    def __init__(self) -> None:
        self._fifths = STORE * SHARE

    def note_request(self) -> None:
        self._fifths = min(STORE * SHARE, self._fifths + 1)

    def spend(self) -> bool:
        """Take leave for one attempt more, if there is one."""
        if self._fifths < SHARE:
            return False
        self._fifths -= SHARE
        return True


def backoff_s(attempt: int) -> float:
    """How long to wait before the `attempt`th second try, from 1."""
    return random.uniform(0, min(LONGEST_S, BASE_S * 2 ** (attempt - 1)))
