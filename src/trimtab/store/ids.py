"""Ids that nobody guesses, in the order of their making (RFC 9562, version 7).

48 bits of milliseconds go before 74 random ones: rows that are made together lie together in an
index, and a commit writes few of its pages. No secret is made here: those come from the system, one
by one.
"""

import os
import time
from collections import deque

_AT_ONCE = 256
# Pieces of 16 random bytes, handed out once each: asking the system for each costs more than an id.
_pieces: deque[bytes] = deque()
# A child must not hand out what its parent does.
os.register_at_fork(after_in_child=_pieces.clear)


def new_id() -> str:
    """32 hexadecimal characters."""
    drawn = int.from_bytes(random_bytes(), "big")
    value = (time.time_ns() // 1_000_000) << 80 | drawn & (1 << 80) - 1
    value = value & ~(0xF << 76) | 0x7 << 76
    value = value & ~(0x3 << 62) | 0x2 << 62
    return f"{value:032x}"


def random_bytes() -> bytes:
    """16 of them. May be asked for by any thread."""
    try:
        return _pieces.pop()
    except IndexError:
        fresh = os.urandom(16 * _AT_ONCE)
        _pieces.extend(fresh[at : at + 16] for at in range(16, len(fresh), 16))
        return fresh[:16]
