"""The guard against a step that never ends: a thread that ends the run where no step comes.

It raises in the thread that trains, as soon as that runs Python again; where it never does (a hung
collective, a driver), the process ends. Where every thread stood lies in the run's folder then.
"""

import ctypes
import faulthandler
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median

# A step may take so many times the median of those before, and that long in any case.
TIMES, LEAST_S = 20.0, 300.0
# Steps that make a median, and how long Python has to answer before the process ends.
FEWEST, GRACE_S = 3, 60.0


class Stalled(BaseException):
    """Raised from outside in the thread that trains; no `except Exception` on its way takes it."""


class StallGuard:
    """`what` tells the step under way; `file` is where the stacks go."""

    def __init__(self, what: Callable[[], str], file: Path) -> None:
        self._what = what
        self._file = file
        self._took: list[float] = []
        self._beaten = time.monotonic()
        self._held = False
        self._done = threading.Event()
        self.message = ""

    @property
    def limit_s(self) -> float | None:
        """How long the step under way may take; None before there is a median."""
        if len(self._took) < FEWEST:
            return None
        return max(LEAST_S, TIMES * median(self._took))

    def stepped(self) -> None:
        """A step has ended."""
        now = time.monotonic()
        self._took.append(now - self._beaten)
        self._beaten = now

    @contextmanager
    def held(self) -> Iterator[None]:
        """Work between two steps, which has no limit."""
        self._held = True
        try:
            yield
        finally:
            self._beaten = time.monotonic()
            self._held = False

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Watch over the thread that enters. Raises Stalled in it."""
        thread = threading.Thread(
            target=self._watch, args=(threading.get_ident(),), name="stall-guard", daemon=True
        )
        self._beaten = time.monotonic()
        thread.start()
        try:
            yield
        finally:
            self._done.set()
            thread.join()

    def _watch(self, trained_in: int) -> None:
        while not self._done.wait(min(1.0, (self.limit_s or 1.0) / 4)):
            limit, idle = self.limit_s, time.monotonic() - self._beaten
            if limit is None or self._held or idle <= limit:
                continue
            self._end(trained_in, idle)
            return

    def _end(self, trained_in: int, idle: float) -> None:
        typical = median(self._took)
        self.message = (
            f"{self._what()}: no end for {idle:.1f} s, where a step takes {typical:.1f} s"
        )
        with self._file.open("w") as file:
            faulthandler.dump_traceback(file, all_threads=True)
        ctypes.pythonapi.PyThreadState_SetAsyncExc(
            ctypes.c_ulong(trained_in), ctypes.py_object(Stalled)
        )
        if not self._done.wait(GRACE_S):
            print(f"trimtab: {self.message} - {hint(self._file)}", file=sys.stderr, flush=True)
            os._exit(1)


def hint(file: Path) -> str:
    return f"{file} shows where it stood; run again: the run goes on from its last checkpoint"
