"""When SQLite's log is copied into its file, and by whom.

By itself, whoever commits every so often does it, and waits for the disk twice, tens of
milliseconds in the middle of other people's requests. Here a thread of its own does, while others
go on to write. Their log can only begin anew once all of it is copied: where it grew to `LONGEST`
because somebody always writes, SQLite's own way ends it, with little left to copy.

Before `MENDED`, a copy that begins as another ends, while somebody's commit begins the log anew,
may lose what is committed next (https://www.sqlite.org/wal.html, the WAL-reset bug). Copies beside
writers make that rare meeting likelier, so such a SQLite is left to its own way.
"""

import sqlite3
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from typing import Any

MENDED = (3, 51, 3)
# Commits between two copies: some four megabytes of log.
EVERY = 64
# Pages of the log from which on whoever commits copies it.
LONGEST = 4_000


def may_run_beside_writers() -> bool:
    """Whether the SQLite of this process loses nothing by it."""
    return sqlite3.sqlite_version_info >= MENDED


class Checkpoints:
    """Counts commits. `connect` opens a driver's connection to the database."""

    def __init__(self, connect: Callable[[], Any]) -> None:
        self._connect = connect
        self._thread = ThreadPoolExecutor(1, "checkpoint")
        self._commits = 0
        self._copying: Future[None] | None = None

    def note_commit(self) -> None:
        """May be told by any thread; one that is missed is no harm."""
        self._commits += 1
        if self._commits < EVERY or (self._copying is not None and not self._copying.done()):
            return
        self._commits = 0
        # Where no thread can be had, or the interpreter ends, SQLite's own way is left.
        with suppress(RuntimeError):
            self._copying = self._thread.submit(self._copy)

    def close(self) -> None:
        """Wait for the one under way."""
        self._thread.shutdown()

    def _copy(self) -> None:
        """What goes wrong with it goes wrong for whoever commits next as well, who tells of it."""
        with suppress(sqlite3.Error):
            connection = self._connect()
            try:
                connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
            finally:
                connection.close()
