"""Prepared statements: what SQLAlchemy would find and say, without its way there."""

from collections.abc import Iterator

import pytest
from sqlalchemy import Boolean, Column, Integer, MetaData, String, Table, bindparam, text

from trimtab.errors import StoreRefused
from trimtab.store.database import Database
from trimtab.store.prepared import Change, Put, Query

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


def test_rows_are_put_whatever_their_number(full: Database) -> None:
    counted = Put(birds)
    lighter = Put(birds, key=["name"], keep=["rare"])
    flock = [{"name": f"tern {i:02}", "weight": i, "rare": bool(i % 2)} for i in range(77)]
    flock[3]["weight"] = None
    with full.transaction() as connection:
        counted.run(connection, [])
        counted.run(connection, flock)
        # Those that stand keep what they keep, and those that do not are made.
        again = [{**bird, "weight": 10**6, "rare": True} for bird in flock[40:]]
        lighter.run(connection, [*again, {"name": "emu", "weight": 1, "rare": True}])
    expected = flock[:40] + [{**bird, "weight": 10**6} for bird in flock[40:]]
    expected += [{"name": "emu", "weight": 1, "rare": True}, *ROWS]
    with full.read() as connection:
        rows = connection.execute(birds.select().order_by(birds.c.name)).all()
    assert [row._asdict() for row in rows] == sorted(expected, key=lambda bird: bird["name"])


def test_many_rows_are_one_step(database: Database) -> None:
    if database.url.drivername != "sqlite":
        pytest.skip("a step is SQLite's")
    told: list[str] = []
    with database.transaction() as connection:
        birds.metadata.create_all(connection)
        driver = connection.connection.dbapi_connection
        assert driver is not None
        driver.set_trace_callback(told.append)
        Put(birds).run(connection, [{**ROWS[0], "name": str(i)} for i in range(13)])
        driver.set_trace_callback(None)
    assert [one.count("(") - 1 for one in told] == [8, 4, 1]


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
