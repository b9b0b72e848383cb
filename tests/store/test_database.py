import os
import threading
import time
from pathlib import Path

import psutil
import pytest
from sqlalchemy import text
from sqlalchemy.engine import URL

from tests.databases import Maker
from tests.disks import SIZE
from tests.processes import running
from trimtab.errors import StorageFull, StoreError, UserError
from trimtab.store.database import Database


def counter(database: Database) -> None:
    with database.transaction() as connection:
        connection.execute(text("CREATE TABLE counters (name TEXT PRIMARY KEY, value INTEGER)"))
        connection.execute(text("INSERT INTO counters VALUES ('left', 0), ('right', 0)"))


def values(database: Database) -> list[int]:
    with database.read() as connection:
        return list(connection.execute(text("SELECT value FROM counters ORDER BY name")).scalars())


def test_a_transaction_is_there_whole_or_not_at_all(database: Database) -> None:
    counter(database)

    def fail_half_way() -> None:
        with database.transaction() as connection:
            connection.execute(text("UPDATE counters SET value = 7"))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail_half_way()
    assert values(database) == [0, 0]
    with database.transaction(durable=False) as connection:
        connection.execute(text("UPDATE counters SET value = 7"))
    assert values(database) == [7, 7]


def test_reading_sees_one_state_and_cannot_write(database: Database) -> None:
    counter(database)
    query = text("SELECT value FROM counters WHERE name = 'left'")
    with database.read() as connection:
        assert connection.execute(query).scalar() == 0
        with database.transaction() as writer:
            writer.execute(text("UPDATE counters SET value = 1"))
        assert connection.execute(query).scalar() == 0
    with pytest.raises(StoreError), database.read() as connection:
        connection.execute(text("UPDATE counters SET value = 2"))
    assert values(database) == [1, 1]
    with database.transaction() as connection:  # the same pooled connection writes again
        connection.execute(text("UPDATE counters SET value = 3"))


def test_threads_count_without_losing_one(database: Database) -> None:
    counter(database)

    def add() -> None:
        for _ in range(25):
            with database.transaction(durable=False) as connection:
                connection.execute(text("UPDATE counters SET value = value + 1"))

    threads = [threading.Thread(target=add) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert values(database) == [100, 100]


def test_a_killed_writer_leaves_no_half_transaction(database: Database, database_url: str) -> None:
    counter(database)
    seen = 0
    for _ in range(3):
        with running("tests.store.writer", database_url) as writer:
            while values(database)[0] < seen + 20:
                time.sleep(0.01)
                left, right = values(database)
                assert left == right
            writer.kill()
            writer.wait()
        left, right = values(database)
        assert left == right
        seen = left
    with database.transaction() as connection:
        connection.execute(text("UPDATE counters SET value = value + 1"))
    assert values(database) == [seen + 1, seen + 1]


@pytest.mark.parametrize("durable", [True, False])
def test_sqlite_durability_is_what_was_asked_for(tmp_path: Path, durable: bool) -> None:
    database = Database(f"sqlite:///{tmp_path / 'a.db'}")
    with database.transaction(durable=durable) as connection:
        assert connection.execute(text("PRAGMA synchronous")).scalar() == (2 if durable else 1)
        assert connection.execute(text("PRAGMA journal_mode")).scalar() == "wal"
        assert connection.execute(text("PRAGMA foreign_keys")).scalar() == 1
    database.close()


def test_a_full_disk_is_told_and_nothing_is_half_written(tiny_disk: Path) -> None:
    database = Database(f"sqlite:///{tiny_disk / 'a.db'}")
    counter(database)
    with database.transaction() as connection:
        connection.execute(text("CREATE TABLE filler (content BLOB)"))

    def fill() -> None:
        for _ in range(100):
            with database.transaction() as connection:
                move = "UPDATE counters SET value = value + 1 WHERE name = "
                connection.execute(text(f"{move}'left'"))
                connection.execute(text("INSERT INTO filler VALUES (randomblob(100000))"))
                connection.execute(text(f"{move}'right'"))

    with pytest.raises(StorageFull) as caught:
        fill()
    assert "free some space" in caught.value.hint
    left, right = values(database)
    assert left == right > 0
    with database.read() as connection:
        assert connection.execute(text("SELECT count(*) FROM filler")).scalar() == left
        assert connection.execute(text("PRAGMA integrity_check")).scalar() == "ok"
    database.close()


@pytest.mark.parametrize("room", [8_000, 16_000, 32_000, 64_000])
def test_a_disk_without_room_for_the_first_table_is_full(tiny_disk: Path, room: int) -> None:
    """SQLite calls it an I/O error where its shared memory does not fit, and full elsewhere."""
    (tiny_disk / "filler").write_bytes(b"x" * (SIZE - SIZE % 4096 - room))
    database = Database(f"sqlite:///{tiny_disk / 'a.db'}")
    with pytest.raises(StorageFull):
        database.migrate()
    database.close()


def test_faults_say_where_and_what_to_do(tmp_path: Path, make_database: Maker) -> None:
    not_one = tmp_path / "not_one.db"
    not_one.write_bytes(b"x" * 4096)
    for url, kind, hint in (
        (f"sqlite:///{not_one}", UserError, "not a database"),
        (f"sqlite:///{tmp_path / 'missing' / 'a.db'}", UserError, "check the path"),
        ("postgresql://nobody@127.0.0.1:9/nothing", StoreError, "server runs"),
    ):
        database = Database(url)
        with pytest.raises(kind) as caught, database.read():
            pass
        assert hint in caught.value.hint, caught.value
        assert "\n" not in caught.value.message
        database.close()


def test_a_place_that_cannot_be_written_is_told() -> None:
    database = Database("sqlite:////proc/nowhere/a.db")
    with pytest.raises(UserError) as caught:
        database.migrate()
    assert "check the path" in caught.value.hint
    database.close()


def test_a_password_is_never_shown() -> None:
    for url in (
        "postgresql://user:secret@127.0.0.1:9/nothing",
        "postgresql://127.0.0.1:9/nothing?user=user&password=secret",
    ):
        database = Database(url)
        with pytest.raises(StoreError) as caught, database.read():
            pass
        assert "secret" not in caught.value.message
        assert "server runs" in caught.value.hint


def test_the_codes_of_one_database_are_not_read_as_those_of_the_other(postgres: URL) -> None:
    """Class 26 is a lost prepared statement; SQLite's 26 is a file that is no database."""
    database = Database(postgres)
    with pytest.raises(StoreError) as caught, database.transaction() as connection:
        connection.exec_driver_sql("DEALLOCATE nothing_such")
    assert caught.value.hint == ""
    database.close()


@pytest.mark.parametrize(
    "url",
    [
        "mysql://here/there",
        "not a url",
        "sqlite+aiosqlite:///a.db",
        "postgresql://here:port/there",
        "nothing-such://here/there",
    ],
)
def test_other_databases_are_refused(url: str) -> None:
    with pytest.raises(UserError):
        Database(url)


def test_a_locked_database_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trimtab.store.database.BUSY_S", 0.05)
    database = Database(f"sqlite:///{tmp_path / 'a.db'}")
    locked = pytest.raises(StoreError, match="locked")
    with database.transaction(), locked as caught, database.transaction():
        pass
    assert "another process" in caught.value.hint
    database.close()


def test_the_process_has_no_open_files_left(tmp_path: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    for number in range(3):
        database = Database(f"sqlite:///{tmp_path / f'{number}.db'}")
        database.migrate()
        database.close()
    assert len(os.listdir("/proc/self/fd")) <= before


def test_connections_that_rest_are_closed_with_the_database(tmp_path: Path) -> None:
    database = Database(URL.create("sqlite", database=str(tmp_path / "some.db")))
    counter(database)
    with database.transaction(), database.read(), database.read():
        pass
    with pytest.raises(StoreError), database.read() as connection:
        # The one that wrote a moment ago may not write now.
        connection.execute(text("UPDATE counters SET value = 1"))
    assert values(database) == [0, 0]
    database.close()
    assert not [file for file in psutil.Process().open_files() if "some.db" in file.path]


@pytest.mark.parametrize(("version", "beside"), [((3, 51, 2), False), ((3, 51, 3), True)])
def test_no_thread_copies_the_log_of_a_sqlite_that_may_lose_by_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: tuple[int, int, int], beside: bool
) -> None:
    monkeypatch.setattr("sqlite3.sqlite_version_info", version)
    database = Database(URL.create("sqlite", database=str(tmp_path / "some.db")))
    assert (database._checkpoints is not None) == beside
    with database.read() as connection:
        pages = connection.execute(text("PRAGMA wal_autocheckpoint")).scalar()
    assert pages == (4_000 if beside else 1_000)
    database.close()


def test_the_log_is_copied_by_a_thread_and_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trimtab.store.checkpoints.EVERY", 5)
    # One process, one writer: no older SQLite loses anything here.
    monkeypatch.setattr("trimtab.store.checkpoints.MENDED", (3, 0, 0))
    file = tmp_path / "some.db"
    database = Database(URL.create("sqlite", database=str(file)))
    counter(database)
    before = file.stat().st_size
    for _ in range(30):
        with database.transaction(durable=False) as connection:
            connection.execute(text("UPDATE counters SET value = value + 1"))
    # Waits for the copy that goes on.
    assert database._checkpoints is not None
    database._checkpoints.close()
    assert file.stat().st_size > before
    # What was copied stands in the file itself, without its log.
    (alone := tmp_path / "alone.db").write_bytes(file.read_bytes())
    copied = Database(URL.create("sqlite", database=str(alone)))
    [left, right] = values(copied)
    assert left == right
    assert 4 <= left <= 30
    assert values(database) == [30, 30]
    copied.close()
    database.close()
