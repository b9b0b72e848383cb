"""Prepared statements: what SQLAlchemy would find and say, without its way there."""

from collections.abc import Iterator

import pytest
from sqlalchemy import Boolean, Column, Integer, MetaData, String, Table, bindparam, text

from trimtab.errors import StoreRefused
from trimtab.store.database import Database
from trimtab.store.prepared import Change, Query

birds = Table(
    "birds",
    MetaData(),
    Column("name", String(16), primary_key=True),
    Column("weight", Integer),
    Column("rare", Boolean, nullable=False),
)
OF = birds.select().where(birds.c.name.in_(bindparam("names", expanding=True)))
NAMED = OF.where(birds.c.weight >= bindparam("least")).order_by(birds.c.name)
ROWS = [
    {"name": "kite", "weight": 800, "rare": True},
    {"name": "rook", "weight": 450, "rare": False},
    {"name": "wren", "weight": 9, "rare": False},
]


@pytest.fixture
def full(database: Database) -> Iterator[Database]:
    with database.transaction() as connection:
        birds.metadata.create_all(connection)
        Change(birds.insert()).run(connection, ROWS)
    yield database
    with database.transaction() as connection:
        birds.metadata.drop_all(connection)


def test_a_query_finds_what_sqlalchemy_finds(full: Database) -> None:
    query = Query(NAMED, over="names")
    with full.read() as connection:
        for names in (["wren"], ["wren", "rook", "kite"], ["rook", "kite"], ["'; --"], []):
            expected = connection.execute(NAMED, {"names": names, "least": 10}).all()
            found = query.rows(connection, names=names, least=10)
            assert [row._asdict() for row in found] == [row._asdict() for row in expected]
        [kite] = query.rows(connection, names=["kite"], least=0)
        assert kite.rare is True
        assert len(Query(birds.select()).rows(connection)) == 3


def test_a_change_changes_every_row_and_none_without_one(full: Database) -> None:
    heavier = Change(birds.update().where(birds.c.name == bindparam("at")))
    with full.transaction() as connection:
        heavier.run(connection, [])
        heavier.run(connection, [{"at": "wren", "weight": 10}, {"at": "rook", "weight": None}])
        Change(birds.delete().where(birds.c.name == bindparam("at"))).run(
            connection, [{"at": "kite"}]
        )
    with full.read() as connection:
        rows = connection.execute(birds.select().order_by(birds.c.name)).all()
        assert [tuple(row) for row in rows] == [("rook", None, False), ("wren", 10, False)]


def test_what_the_database_refuses_is_refused_by_its_name(full: Database) -> None:
    def insert(row: dict[str, object]) -> None:
        with full.transaction() as connection:
            connection.execute(text("UPDATE birds SET weight = 1"))
            Change(birds.insert()).run(connection, [row])

    for bad in (ROWS[0], {"name": "emu", "weight": 1, "rare": None}):
        with pytest.raises(StoreRefused):
            insert(bad)
    with full.read() as connection:
        assert {row.weight for row in Query(birds.select()).rows(connection)} == {800, 450, 9}
