"""What a gateway works for stays reserved; what it could not settle is settled later, once."""

import asyncio
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tests.gateway.visiting import PRICE, Visitors
from tests.gateway.world import World, build_world
from trimtab.errors import StoreError
from trimtab.gateway import heartbeat, replays
from trimtab.gateway.books import Books
from trimtab.gateway.replays import Claim, Replay
from trimtab.inference import Usage
from trimtab.ledger.holds import recover
from trimtab.ledger.reservation import suspects


@pytest.fixture
def world(tmp_path: Path, base_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    """A world that beats fast, and waits for a lock no longer than a test wants to."""
    monkeypatch.setattr("trimtab.store.database.BUSY_S", 0.1)
    monkeypatch.setattr(heartbeat, "BEAT_S", 0.05)
    built = build_world(tmp_path, base_folder)
    yield built
    built.database.close()


def locked(world: World) -> "closing[sqlite3.Connection]":
    other = sqlite3.connect(str(world.database.url.database), isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    return closing(other)


def expiries(world: World) -> dict[str, int]:
    with world.database.read() as connection:
        return {hold.id: hold.expires_us for hold in suspects(connection, 2**61)}


async def eventually(true: Any) -> None:
    async with asyncio.timeout(10):
        while not true():
            await asyncio.sleep(0.01)


def test_a_settlement_that_the_store_would_not_take_is_written_later(world: World) -> None:
    async def go() -> None:
        books, visit = Books(world.database), Visitors(world).visit()
        claim = Claim(visit.key.id, "n", "f", visit.id, books.owner)
        await books.reserve(visit, 10, 5, 1)
        visit.usage = Usage(10, 3)
        with locked(world):
            with pytest.raises(StoreError):
                async with books.accounted(visit):
                    await books.close(visit, kept=Replay(claim, lambda: "an answer nobody got"))
            assert world.account().held_nano == PRICE.of(10, 5)
            assert books.in_flight == 1
        await eventually(lambda: books.in_flight == 0)
        assert world.account().held_nano == 0
        await books.settled()

    asyncio.run(go())
    [logged] = world.log()
    assert (logged.status, logged.error_code) == (503, "store_unavailable")
    assert logged.cost_nano == world.spent_for(logged) == PRICE.of(10, 3)
    assert world.account().spent_nano == PRICE.of(10, 3)


def test_who_closes_twice_is_settled_and_logged_once(world: World) -> None:
    async def go() -> None:
        books, visit = Books(world.database), Visitors(world).visit()
        await books.reserve(visit, 10, 5, 1)
        visit.usage = Usage(10, 2)

        async def end() -> None:
            async with books.accounted(visit):
                await books.close(visit)

        ending = asyncio.ensure_future(end())
        await asyncio.sleep(0)
        ending.cancel()
        await asyncio.wait([ending])
        assert ending.cancelled()
        await books.settled()

    asyncio.run(go())
    [logged] = world.log()
    assert (logged.status, logged.cost_nano) == (200, PRICE.of(10, 2))
    assert world.account().spent_nano == PRICE.of(10, 2)


def test_a_caller_that_is_cancelled_again_and_again_leaves_no_hold(world: World) -> None:
    async def go() -> None:
        books, visit = Books(world.database), Visitors(world).visit()

        async def ask() -> None:
            async with books.accounted(visit):
                await books.reserve(visit, 10, 5, 1)

        with locked(world):
            asking = asyncio.ensure_future(ask())
            for _ in range(3):
                await asyncio.sleep(0.01)
                asking.cancel()
        await asyncio.wait([asking])
        assert asking.cancelled() or asking.exception() is not None
        await books.settled()

    asyncio.run(go())
    assert (world.account().held_nano, world.account().spent_nano) == (0, 0)


def test_a_beat_keeps_what_is_worked_for_and_nothing_else(world: World) -> None:
    async def go() -> None:
        books, visitors = Books(world.database), Visitors(world)
        worked, orphan = visitors.visit(), visitors.visit()
        for visit in (worked, orphan):
            await books.reserve(visit, 10, 5, 1)
        del books._life.visits[orphan.id]  # its making was never heard of
        worked.usage = Usage(10, 4)
        assert worked.reserved is not None
        assert orphan.reserved is not None
        hold = worked.reserved.hold.id
        for _ in range(2):  # a beat that was under way may have named the orphan still
            before = expiries(world)
            await eventually(lambda was=before: expiries(world)[hold] > was[hold])
        before = expiries(world)
        await eventually(lambda: expiries(world)[hold] > before[hold])
        assert expiries(world)[orphan.reserved.hold.id] == before[orphan.reserved.hold.id]
        with world.database.transaction() as connection:
            assert len(recover(connection, before[orphan.reserved.hold.id])) == 1
            [closed] = recover(connection, 2**61)  # as after a crash of this gateway
        assert closed.settled_nano == PRICE.of(10, 4)
        # The answer that came too late costs what was settled.
        await books.close(worked)
        await books.settled()

    asyncio.run(go())
    [logged] = world.log()
    assert logged.cost_nano == PRICE.of(10, 4)
    assert world.account().spent_nano == PRICE.of(10, 4) + PRICE.of(10, 0)


def test_a_claim_stays_while_its_work_goes_on_and_no_longer(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replays, "CLAIM_US", 150_000)

    def claims(request: str) -> bool:
        held = Claim("k", "name", "f", request, "owner")
        with world.database.transaction() as connection:
            try:
                return replays.claim(connection, held) is None
            except Exception:
                return False

    async def go() -> None:
        books = Books(world.database)
        assert claims("first")
        with books.claiming(Claim("k", "name", "f", "first", books.owner)):
            await asyncio.sleep(0.3)
            assert not claims("second")
        monkeypatch.setattr(heartbeat, "LIFE_US", 0)
        await asyncio.sleep(0.1)
        await books.settled()

    asyncio.run(go())


def test_an_engine_that_counts_below_nothing_gets_nothing(world: World) -> None:
    async def go() -> None:
        books, visit = Books(world.database), Visitors(world).visit()
        await books.reserve(visit, 10, 5, 1)
        visit.usage = Usage(-10, -5)
        await books.close(visit)
        await books.settled()

    asyncio.run(go())
    assert (world.account().held_nano, world.account().spent_nano) == (0, 0)
