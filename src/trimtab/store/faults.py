"""What a database's errors mean to the reader."""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy.engine import URL
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from trimtab.errors import StorageFull, StoreError, TrimtabError

# (SQLite primary result code or SQLSTATE class or code, what to do)
_HINTS = {
    "5": "another process holds the database for long; try again",
    "6": "another process holds the database for long; try again",
    "8": "the file or its folder is read-only: check its permissions",
    "11": "the file is damaged: restore it from a copy",
    "14": "the file cannot be opened: check the path and its permissions",
    "26": "the file is not a database: name another home",
    "08": "check that the server runs and that TRIMTAB_DATABASE_URL is right",
    "28": "check the user and the password in TRIMTAB_DATABASE_URL",
    "3D": "create the database first",
    "40": "two transactions met; do the same again",
    "57": "the server is stopping or starting; try again",
}
_DISK_FULL = ("13", "53100")


@contextmanager
def told(url: URL) -> Iterator[None]:
    """Turn the errors of the driver into StoreError and StorageFull, each with a hint."""
    try:
        yield
    except DBAPIError as error:
        raise _meaning(error, url) from error
    except PoolTimeout as error:
        raise StoreError(
            f"{_name(url)}: no free connection", hint="too many threads work on it; try again"
        ) from error


def _meaning(error: DBAPIError, url: URL) -> TrimtabError:
    message = f"{_name(url)}: {str(error.orig).strip().splitlines()[0]}"
    code = _code(error.orig)
    if code in _DISK_FULL:
        return StorageFull(message, hint="free some space on its disk, then do the same again")
    if not code and url.drivername != "sqlite":
        code = "08"  # the server was never reached
    return StoreError(message, hint=_HINTS.get(code) or _HINTS.get(code[:2], ""))


def _code(error: BaseException | None) -> str:
    """SQLite's primary result code in decimal, or the five characters of an SQLSTATE."""
    if isinstance(error, sqlite3.Error):
        return str(getattr(error, "sqlite_errorcode", 0) & 0xFF)
    return str(getattr(error, "sqlstate", None) or "")


def _name(url: URL) -> str:
    return url.database or "" if url.drivername == "sqlite" else url.render_as_string()
