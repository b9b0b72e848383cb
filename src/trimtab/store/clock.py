"""Time as the tables keep it: integer microseconds since the epoch, UTC."""

import time
from datetime import UTC, datetime


def now_us() -> int:
    return time.time_ns() // 1000


def show(us: int) -> str:
    """ISO 8601 to the second, for people and JSON."""
    return datetime.fromtimestamp(us / 1e6, UTC).isoformat(timespec="seconds")
