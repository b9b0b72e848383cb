"""What a database's errors mean to the reader."""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy.engine import URL
from sqlalchemy.exc import DataError, DBAPIError, IntegrityError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from trimtab.errors import (
    StorageFull,
    StoreClosed,
    StoreConflict,
    StoreError,
    StoreRefused,
    TrimtabError,
)
from trimtab.store.disk import is_full

# By SQLite's primary result code.
_SQLITE_HINTS = {
    5: "another process holds the database for long; try again",
    6: "another process holds the database for long; try again",
    3: "the file may not be opened: check its permissions",
    8: "the file or its folder is read-only: check its permissions",
    10: "the disk failed or took no more: look at it, then do the same again",
    11: "the file is damaged: restore it from a copy",
    14: "the file cannot be opened: check the path and its permissions",
    26: "the file is not a database: name another home",
}
# By the class of PostgreSQL's SQLSTATE, its first two characters.
_POSTGRESQL_HINTS = {
    "08": "check that the server runs and that TRIMTAB_DATABASE_URL is right",
    "28": "check the user and the password in TRIMTAB_DATABASE_URL",
    "3D": "create the database first",
    "40": "two transactions met; do the same again",
    "53": "the server is short of memory or connections; try again",
    "57": "the server is stopping or starting; try again",
}
_SQLITE_IO, _SQLITE_FULL = 10, 13
# What its user has to mend: a place that cannot be opened, a file that is something else.
_SQLITE_OF_THE_USER = frozenset({3, 14, 26})
_POSTGRESQL_FULL = "53100"
_POSTGRESQL_ROLLED_BACK = "40"
_UNREACHED = "08001"


@contextmanager
def told(url: URL) -> Iterator[None]:
    """Turn the errors of the driver into ours, with what hint there is."""
    try:
        yield
    except OverflowError as error:
        # sqlite3 raises it by itself; SQLAlchemy wraps only what DB-API knows.
        raise StoreRefused(f"{_name(url)}: a number that no column holds") from error
    except DBAPIError as error:
        raise _meaning(error, url) from error
    except PoolTimeout as error:
        raise StoreError(
            f"{_name(url)}: no free connection", hint="too many threads work on it; try again"
        ) from error


def _meaning(error: DBAPIError, url: URL) -> TrimtabError:
    lines = str(error.orig).strip().splitlines() or [type(error.orig).__name__]
    message = f"{_name(url)}: {lines[0]}"
    if isinstance(error.orig, sqlite3.Error):
        code = getattr(error.orig, "sqlite_errorcode", 0) & 0xFF
        full, hint = _is_full(code, url), _SQLITE_HINTS.get(code, "")
        theirs = code in _SQLITE_OF_THE_USER
        conflicts = False
    else:
        # Without a code the server was never reached.
        state = getattr(error.orig, "sqlstate", None) or _UNREACHED
        full, hint = state == _POSTGRESQL_FULL, _POSTGRESQL_HINTS.get(state[:2], "")
        theirs, conflicts = False, state.startswith(_POSTGRESQL_ROLLED_BACK)
    if full:
        return StorageFull(message, hint="free some space on its disk, then do the same again")
    if isinstance(error, IntegrityError | DataError):
        return StoreRefused(message, hint=hint)
    if conflicts:
        return StoreConflict(message, hint=hint)
    return StoreClosed(message, hint=hint) if theirs else StoreError(message, hint=hint)


def _is_full(code: int, url: URL) -> bool:
    # Where the file of its shared memory cannot grow, SQLite speaks of an I/O error.
    if code == _SQLITE_IO and url.database:
        return is_full(Path(url.database))
    return code == _SQLITE_FULL


def _name(url: URL) -> str:
    """The file, or the URL without its secrets: a query may hold a password too."""
    if url.drivername == "sqlite":
        return url.database or ""
    return url.set(query={}).render_as_string()
