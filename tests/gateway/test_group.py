"""Group commit: what is one's own costs nobody else, and what is the store's is waited for once."""

import asyncio
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from typing import Any

import pytest
from sqlalchemy import make_url, text
from sqlalchemy.exc import OperationalError

from tests.gateway.world import World
from trimtab.errors import StoreConflict, StoreError, StoreRefused
from trimtab.gateway.billing.group import GroupCommit
from trimtab.store.database import Connection, Database
from trimtab.store.faults import told


def insert(connection: Connection, items: Sequence[int]) -> Sequence[Any]:
    for item in items:
        row = {"level": item, "key": str(item)}
        statement = "INSERT INTO meters VALUES (:key, 'tokens', :level, 0)"
        connection.execute(text(statement), row)
    return [item * 2 for item in items]


async def all_at_once(database: Database, items: Sequence[int]) -> list[Any]:
    group = GroupCommit(database, insert)
    done = await asyncio.gather(*(group.ask(item) for item in items), return_exceptions=True)
    await group.settled()
    return done


def rows(world: World) -> int:
    with world.database.read() as connection:
        return int(connection.execute(text("SELECT count(*) FROM meters")).scalar_one())


def test_what_the_database_refuses_for_one_costs_nobody_else(world: World) -> None:
    first, refused, third = asyncio.run(all_at_once(world.database, [1, -1, 3]))
    assert (first, third) == (2, 6)
    assert isinstance(refused, StoreRefused)
    assert rows(world) == 2


def test_a_number_that_no_column_holds_costs_nobody_else(world: World) -> None:
    _, refused, _ = asyncio.run(all_at_once(world.database, [1, 2**80, 3]))
    assert isinstance(refused, StoreRefused)
    assert rows(world) == 2


def test_who_is_about_to_ask_shares_the_transaction(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun = []
    original = world.database.transaction
    monkeypatch.setattr(
        world.database, "transaction", lambda **more: begun.append(1) or original(**more)
    )

    async def go() -> list[Any]:
        group, asked = GroupCommit(world.database, insert), []
        for item in (1, 2, 3):
            asked.append(group.ask(item))
            await asyncio.sleep(0)
        done = await asyncio.gather(*asked)
        await group.settled()
        return done

    assert asyncio.run(go()) == [2, 4, 6]
    assert begun == [1]


def test_a_lock_is_waited_for_once_and_not_for_each(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trimtab.store.database.BUSY_S", 0.05)
    database = Database(world.database.url)
    begun = []
    original = database.transaction
    monkeypatch.setattr(database, "transaction", lambda **more: begun.append(1) or original(**more))
    with closing(sqlite3.connect(str(database.url.database), isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        refused = asyncio.run(all_at_once(database, range(40)))
    assert {type(error) for error in refused} == {StoreError}
    assert len(begun) == 1
    assert asyncio.run(all_at_once(database, [1])) == [2]
    database.close()


def test_what_another_transaction_was_in_the_way_of_is_done_once_more(world: World) -> None:
    async def tried(conflicts: int) -> Any:
        left = [StoreConflict("deadlock detected")] * conflicts

        def met(connection: Connection, items: Sequence[int]) -> Sequence[Any]:
            done = insert(connection, items)
            if left:
                raise left.pop()
            return done

        group = GroupCommit(world.database, met)
        [done] = await asyncio.gather(group.ask(conflicts), return_exceptions=True)
        return done

    assert asyncio.run(tried(1)) == 2
    assert isinstance(asyncio.run(tried(2)), StoreConflict)
    assert rows(world) == 1


def test_a_transaction_that_was_rolled_back_for_another_is_a_conflict() -> None:
    class Deadlock(Exception):
        sqlstate = "40P01"

    def meet() -> None:
        with told(make_url("postgresql+psycopg://nobody@nowhere/x")):
            raise OperationalError("UPDATE", {}, Deadlock("deadlock detected"))

    with pytest.raises(StoreConflict, match="deadlock detected"):
        meet()
