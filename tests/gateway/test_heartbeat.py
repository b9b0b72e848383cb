"""What a gateway works for stays reserved; what it could not settle is settled later, once."""

import asyncio
import sqlite3
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.gateway.echo import Echo
from tests.gateway.visiting import PRICE, Visitors
from tests.gateway.world import PROMPT, World, app_with, build_world, listening, until
from tests.ledger.one import recover
from trimtab.errors import HoldClosed, StoreError
from trimtab.gateway import problems, replays
from trimtab.gateway.billing import heartbeat
from trimtab.gateway.billing.books import Books
from trimtab.gateway.problems import Problem
from trimtab.gateway.replays import Claim, Replay
from trimtab.gateway.visit import Visit
from trimtab.inference import Usage
from trimtab.ledger.reservation import suspects

# The cost that was logged, and whether the answer was kept for whoever asks again.
Closed = tuple[int, bool]


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


async def answered(books: Books, visit: Visit, claim: Claim, *, kept: bool) -> None:
    with books.claiming(claim):
        async with books.accounted(visit):
            answer = Replay(claim, lambda: f"it cost {visit.cost_nano}")
            await books.close(visit, kept=answer if kept else None)


def refused_at_the_end(world: World, *, kept: bool = False, heard: bool = False) -> Closed:
    """What is logged of an answer that the store would not take at first."""

    async def go() -> bool:
        books, visit = Books(world.database), Visitors(world).visit()
        claim = Claim(visit.key.id, "n", "f", visit.id, books.owner)
        with world.database.transaction() as connection:
            assert replays.claim(connection, claim) is None
        await books.reserve(visit, 10, 5, 1)
        visit.usage, visit.heard = Usage(10, 3), heard
        with locked(world):
            with pytest.raises(StoreError):
                await answered(books, visit, claim, kept=kept)
            assert world.account().held_nano == PRICE.of(10, 5)
            assert books.in_flight == 1
            assert books.owes(claim) == kept
        await eventually(lambda: books.in_flight == 0)
        assert not books.owes(claim)
        assert world.account().held_nano == 0
        await books.settled()
        with world.database.transaction() as connection:
            try:
                return replays.claim(connection, replace(claim, request_id="r2")) is not None
            except Problem:
                return False

    replayed = asyncio.run(go())
    [logged] = world.log()
    assert (logged.status, logged.error_code) == (503, "store_unavailable")
    assert logged.cost_nano == world.spent_for(logged) == world.account().spent_nano
    return logged.cost_nano, replayed


def test_a_settlement_that_the_store_would_not_take_is_written_later(world: World) -> None:
    assert refused_at_the_end(world, kept=True) == (PRICE.of(10, 3), True)


def test_an_answer_that_nobody_got_and_nobody_can_ask_for_costs_nothing(world: World) -> None:
    assert refused_at_the_end(world) == (0, False)


def test_an_answer_that_was_heard_is_paid_though_the_store_was_late(world: World) -> None:
    assert refused_at_the_end(world, heard=True) == (PRICE.of(10, 3), False)


def test_an_answer_whose_name_was_taken_over_meanwhile_costs_nothing(world: World) -> None:
    async def go() -> None:
        books, visit = Books(world.database), Visitors(world).visit()
        claim = Claim(visit.key.id, "never claimed", "f", visit.id, books.owner)
        await books.reserve(visit, 10, 5, 1)
        visit.usage = Usage(10, 3)
        with locked(world), pytest.raises(StoreError):
            await answered(books, visit, claim, kept=True)
        await books.settled()

    asyncio.run(go())
    assert (world.account().held_nano, world.account().spent_nano) == (0, 0)


def test_a_retry_of_an_answer_that_was_lost_hears_it_and_pays_it_once(world: World) -> None:
    echo = Echo()
    echo.words, echo.pause_s = 5, 0.05
    body = {"model": "desk", "prompt": PROMPT, "max_tokens": 5}
    named = {"Idempotency-Key": "order-7"}
    with (
        listening(app_with(world, echo), world.key.key) as client,
        ThreadPoolExecutor(1) as elsewhere,
    ):
        asking = elsewhere.submit(client.post, "/v1/generate", json=body, headers=named)
        until(lambda: bool(echo.asked))
        with locked(world):
            assert asking.result().json()["code"] == "store_unavailable"

        def again() -> httpx.Response:
            return client.post("/v1/generate", json=body, headers=named)

        until(lambda: again().status_code == 200)
        answer = again()
    assert answer.headers["Idempotency-Replayed"] == "true"
    assert len(echo.asked) == 1
    paid = PRICE.of(world.prompt_tokens, 5)
    assert world.account().spent_nano == paid
    assert round(float(answer.json()["cost_usd"]) * 1e9) == paid


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


def test_a_hold_that_was_long_waited_for_is_kept_as_any_other(world: World) -> None:
    async def go() -> None:
        books, visit = Books(world.database), Visitors(world).visit()
        at_once = books._group.ask

        async def late(item: Any) -> Any:
            """Until the beat has found nothing to beat for, and ended."""
            done = await at_once(item)
            await eventually(lambda: books._life._beating and books._life._beating.done())
            return done

        books._group.ask = lambda item: asyncio.ensure_future(late(item))  # type: ignore[method-assign]
        await books.reserve(visit, 10, 5, 1)
        books._group.ask = at_once  # type: ignore[method-assign]
        assert visit.reserved is not None
        hold = visit.reserved.hold.id
        before = expiries(world)
        await eventually(lambda: expiries(world)[hold] > before[hold])
        await books.close(visit)
        await books.settled()

    asyncio.run(go())


def test_whose_hold_expired_is_told_that_something_was_spent(world: World) -> None:
    async def go() -> Problem:
        books, visit = Books(world.database), Visitors(world).visit()
        await books.reserve(visit, 10, 5, 1)
        with world.database.transaction() as connection:
            recover(connection, 2**61)
        with pytest.raises(HoldClosed) as late:
            await books.reserve(visit, 12, 5, 1)
        await books.settled()
        return problems.of(late.value)

    told = asyncio.run(go())
    assert (told.status, told.code, told.retryable) == (503, "hold_expired", True)
    assert "was spent" in told.detail
    assert world.account().spent_nano == PRICE.of(10, 0)
