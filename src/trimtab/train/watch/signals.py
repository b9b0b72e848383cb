"""The order to save and end: SIGTERM, as a scheduler or a machine about to go away sends it."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def terminated(told: Callable[[], None]) -> Iterator[None]:
    """Call `told` on SIGTERM, where this thread may take signals."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def take(_: int, __: FrameType | None) -> None:
        told()

    before = signal.signal(signal.SIGTERM, take)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
