"""Transactions on SQLite or PostgreSQL. Knows no tables: they belong to the rooms.

SQLite runs in WAL mode, every write transaction begins IMMEDIATE (so that it never fails half-way
for want of the lock), and `durable` chooses between surviving a loss of power (FULL) and surviving
`kill -9` alone (NORMAL, a fraction of the price). PostgreSQL is always durable.
"""

import sqlite3
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from sqlalchemy import Connection, Engine, QueuePool, create_engine, event
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError

from trimtab.errors import UserError
from trimtab.store.checkpoints import LONGEST, Checkpoints, may_run_beside_writers
from trimtab.store.faults import told
from trimtab.store.migrate import migrate
from trimtab.store.prepared import close_cursor, run

__all__ = ["Connection", "Database"]

BUSY_S = 10.0
# How long it is between two looks at a lock that another process holds, at first and at last.
LOOK_S, LONGEST_LOOK_S = 0.0003, 0.01
_WRITES = "trimtab_writes"
_DURABLE = "trimtab_durable"
_PRAGMAS = "trimtab_pragmas"


class Database:
    """One database, shared by the threads of a process. Many processes may open the same one."""

    def __init__(self, url: str | URL) -> None:
        self.url = _checked(url)
        self._engine = _engine(self.url)
        # Those that rest between two transactions, the last one used on top. Of SQLite's alone: one
        # to a server may be dead by then, and the pool looks before it hands it out.
        self._resting: deque[Connection] | None = (
            deque() if self.url.drivername == "sqlite" else None
        )
        self._checkpoints: Checkpoints | None = None
        if self.url.drivername == "sqlite" and self.url.database and may_run_beside_writers():
            file = self.url.database
            self._checkpoints = Checkpoints(lambda: sqlite3.connect(file, BUSY_S))

    @contextmanager
    def transaction(self, durable: bool = True) -> Iterator[Connection]:
        """All of the writes inside happen, or none.

        Raises StorageFull, UserError where the place cannot be opened, and StoreError.
        """
        with self._begun({_WRITES: True, _DURABLE: durable}) as connection:
            yield connection
        if self._checkpoints is not None:
            self._checkpoints.note_commit()

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """One consistent view of what was committed; writing here is an error."""
        options: dict[str, Any] = {_WRITES: False}
        if self._engine.dialect.name == "postgresql":
            options |= {"isolation_level": "REPEATABLE READ", "postgresql_readonly": True}
        with self._begun(options) as connection:
            yield connection

    def migrate(self) -> None:
        """Bring the schema up to date; safe when several processes do it at once."""
        with told(self.url):
            migrate(self._engine)

    def close(self) -> None:
        if self._checkpoints is not None:
            self._checkpoints.close()
        while self._resting:
            self._resting.pop().close()
        self._engine.dispose()

    @contextmanager
    def _begun(self, options: dict[str, Any]) -> Iterator[Connection]:
        with told(self.url):
            connection = self._taken()
            try:
                if any(connection.get_execution_options().get(n) != v for n, v in options.items()):
                    connection = connection.execution_options(**options)
                with connection.begin():
                    yield connection
            except BaseException:
                connection.close()
                raise
            if self._resting is None:
                connection.close()
            else:
                self._resting.append(connection)

    def _taken(self) -> Connection:
        """A connection between two transactions. The way through the pool, and what the pool undoes
        after each, cost more than what SQLite does."""
        try:
            return self._resting.pop() if self._resting else self._engine.connect()
        except IndexError:  # another thread took the last one
            return self._engine.connect()


def _checked(url: str | URL) -> URL:
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError):  # the latter for a port that is no number
        raise UserError(
            "the database URL cannot be read", hint="e.g. postgresql://user@host/trimtab"
        ) from None
    if parsed.drivername in ("postgresql", "postgres"):
        parsed = parsed.set(drivername="postgresql+psycopg")
    if parsed.drivername not in ("sqlite", "postgresql+psycopg"):
        raise UserError(
            f"no support for the database '{parsed.drivername}'",
            hint="use sqlite:///FILE or postgresql://USER@HOST/NAME",
        )
    return parsed


def _engine(url: URL) -> Engine:
    if url.drivername == "sqlite":
        # The last one used has its pages at hand, and is set for the same kind of work.
        engine = create_engine(
            url, connect_args={"timeout": BUSY_S}, poolclass=QueuePool, pool_use_lifo=True
        )
        event.listen(engine, "close", close_cursor)
        event.listen(engine, "connect", _prepare_sqlite)
        event.listen(engine, "begin", _begin_sqlite)
        return engine
    try:
        return create_engine(url, pool_pre_ping=True)
    except ModuleNotFoundError:
        raise UserError(
            "PostgreSQL needs psycopg, which is not installed",
            hint="pip install 'trimtab[postgres]'",
        ) from None


def _prepare_sqlite(connection: Any, record: Any) -> None:
    # The driver would begin transactions by itself, too late and DEFERRED.
    connection.isolation_level = None
    connection.execute("PRAGMA journal_mode=WAL")
    if may_run_beside_writers():
        connection.execute(f"PRAGMA wal_autocheckpoint={LONGEST}")
    connection.execute("PRAGMA foreign_keys=ON")


def _begin_sqlite(connection: Connection) -> None:
    options = connection.get_execution_options()
    writes = options.get(_WRITES, True)
    level = "FULL" if options.get(_DURABLE, True) else "NORMAL"
    if writes:
        # We wait for the lock, not SQLite: see below.
        wanted = ["query_only=OFF", f"synchronous={level}", "busy_timeout=0"]
    else:
        wanted = ["query_only=ON", f"busy_timeout={round(BUSY_S * 1000)}"]
    if connection.info.get(_PRAGMAS) != wanted:
        connection.info.pop(_PRAGMAS, None)
        for pragma in wanted:
            run(connection, f"PRAGMA {pragma}")
        connection.info[_PRAGMAS] = wanted
    if writes:
        _take_lock(connection)
    else:
        run(connection, "BEGIN")


def _take_lock(connection: Connection) -> None:
    """Begin to write, as soon as nobody else does; gives up after BUSY_S.

    SQLite would sleep longer after each look, up to a tenth of a second, though others hold it for
    a millisecond or two.
    """
    driver: Any = connection.connection.dbapi_connection
    until, wait_s = time.monotonic() + BUSY_S, LOOK_S
    while time.monotonic() < until:
        try:
            driver.execute("BEGIN IMMEDIATE")
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY:
                break
        else:
            return
        time.sleep(wait_s)
        wait_s = min(LONGEST_LOOK_S, wait_s * 1.25)
    run(connection, "BEGIN IMMEDIATE")
