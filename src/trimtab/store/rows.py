"""Statements that SQLite and PostgreSQL spell alike, but SQLAlchemy's core does not."""

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import Connection, Table
from sqlalchemy.dialects.postgresql import insert as postgresql_insert
from sqlalchemy.dialects.sqlite import insert as sqlite_insert


def insert_once(connection: Connection, table: Table, row: Mapping[str, Any]) -> bool:
    """Insert a row unless one with its key stands; True if it was inserted."""
    statement = _insert(connection)(table).values(**row).on_conflict_do_nothing()
    # The row that comes back says it was inserted; psycopg counts no rows here.
    return connection.execute(statement.returning(*table.primary_key)).first() is not None


def insert_or_update(
    connection: Connection,
    table: Table,
    row: Mapping[str, Any],
    *,
    key: Sequence[str],
    keep: Sequence[str] = (),
) -> None:
    """Insert a row, or replace the columns of the one with the same `key`, but those in `keep`."""
    others = {name: value for name, value in row.items() if name not in (*key, *keep)}
    statement = _insert(connection)(table).values(**row)
    connection.execute(statement.on_conflict_do_update(index_elements=list(key), set_=others))


def _insert(connection: Connection) -> Any:
    return sqlite_insert if connection.dialect.name == "sqlite" else postgresql_insert
