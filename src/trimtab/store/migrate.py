"""Bringing a database's schema to the newest revision, one process at a time."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Lock

from filelock import FileLock
from sqlalchemy import Connection, Engine, inspect, text

from trimtab.errors import StoreError, UserError
from trimtab.store.disk import storing

# The newest revision. Knowing it here spares a start the import of Alembic.
HEAD = "0011"
_ADVISORY_LOCK = 0x7472696D746162
# Alembic keeps the migration under way in globals of its modules: a process runs one at a time.
_upgrading = Lock()


def migrate(engine: Engine) -> None:
    """Run the migrations that are missing, in one transaction."""
    with _alone(engine), engine.begin() as connection:
        if engine.dialect.name == "postgresql":
            connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _ADVISORY_LOCK})
        if revision(connection) != HEAD:
            _upgrade(connection)


def revision(connection: Connection) -> str | None:
    """The revision that the database stands at; None for an empty one."""
    if not inspect(connection).has_table("alembic_version"):
        return None
    found = connection.execute(text("SELECT version_num FROM alembic_version")).scalar()
    return None if found is None else str(found)


def _upgrade(connection: Connection) -> None:
    from alembic import command
    from alembic.config import Config
    from alembic.util import CommandError

    config = Config()
    config.set_main_option("script_location", "trimtab.store:migrations")
    config.attributes["connection"] = connection
    try:
        with _upgrading:
            command.upgrade(config, "head")
    except CommandError as error:
        raise StoreError(
            f"the database was made by a newer Trimtab ({error})", hint="upgrade trimtab"
        ) from error


@contextmanager
def _alone(engine: Engine) -> Iterator[None]:
    """Two processes that turn one new SQLite file to WAL at once meet a lock that does not wait."""
    file = engine.url.database
    if engine.dialect.name != "sqlite" or file is None:
        yield
        return
    lock = FileLock(f"{file}.migrate")
    try:
        with storing(Path(file)):
            lock.acquire()
    except OSError as error:
        raise UserError(
            f"{file}: {error.strerror}", hint="check the path and its permissions"
        ) from None
    try:
        yield
    finally:
        lock.release()
