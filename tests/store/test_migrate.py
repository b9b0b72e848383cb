from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, inspect, text
from sqlalchemy.engine import URL

import trimtab.flows.tables
import trimtab.gateway.tables
import trimtab.journal.tables
import trimtab.ledger.tables
import trimtab.registry.tables
import trimtab.store.outbox
from tests.databases import Maker
from tests.processes import all_running
from trimtab.errors import StoreError
from trimtab.store.database import Database
from trimtab.store.metadata import metadata
from trimtab.store.migrate import HEAD, revision

ROOMS = Path(trimtab.store.__file__).parents[1]


def checks(connection: Connection) -> dict[str, Any]:
    """What compare_metadata does not look at."""
    inspector = inspect(connection)
    return {
        table: sorted(
            (check["name"] or "", check["sqltext"])
            for check in inspector.get_check_constraints(table)
        )
        for table in inspector.get_table_names()
        if table != "alembic_version"
    }


def test_the_migrated_schema_is_the_tables_of_all_rooms(database: Database, empty_url: URL) -> None:
    with database.read() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, metadata) == []
        migrated = checks(connection)
    declared = Database(empty_url)
    with declared.transaction() as connection:
        metadata.create_all(connection)
        assert checks(connection) == migrated
    declared.close()


def test_every_tables_file_is_compared() -> None:
    with_tables = {path.parent.name for path in ROOMS.glob("*/tables.py")}
    assert with_tables == {"registry", "ledger", "journal", "gateway", "flows"}


def test_the_head_that_the_code_knows_is_the_newest() -> None:
    config = Config()
    config.set_main_option("script_location", "trimtab.store:migrations")
    assert ScriptDirectory.from_config(config).get_heads() == [HEAD]


def test_migrating_again_changes_nothing(database: Database) -> None:
    with database.transaction() as connection:
        connection.execute(text("INSERT INTO leases VALUES ('a', 'b', 1)"))
    database.migrate()
    with database.read() as connection:
        assert revision(connection) == HEAD
        assert connection.execute(text("SELECT count(*) FROM leases")).scalar() == 1


def test_two_databases_are_migrated_in_two_threads_of_a_process(tmp_path: Path) -> None:
    databases = [Database(f"sqlite:///{tmp_path / str(number)}.db") for number in range(4)]
    with ThreadPoolExecutor(len(databases)) as pool:
        list(pool.map(Database.migrate, databases))
    for database in databases:
        with database.read() as connection:
            assert revision(connection) == HEAD
        database.close()


def test_processes_that_start_together_migrate_once(empty_url: URL) -> None:
    url = empty_url.render_as_string(hide_password=False)
    with all_running("tests.store.starter", [[url]] * 3) as starters:
        assert [starter.wait(60) for starter in starters] == [0] * 3
    database = Database(url)
    with database.read() as connection:
        assert connection.execute(text("SELECT version_num FROM alembic_version")).all() == [
            (HEAD,)
        ]
    database.close()


def test_a_database_from_the_future_is_refused(make_database: Maker) -> None:
    database = Database(make_database(True))
    with database.transaction() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(StoreError, match="newer Trimtab"):
        database.migrate()
    database.close()
