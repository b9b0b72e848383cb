"""The table of faults: what the client gets, from which tier, how soon, for how much.

A real gateway, the real client of the engine, the real server of it, and a proxy between that
breaks the connection. In every row the deadline holds, nothing is charged that was not generated,
and nothing is left open behind.
"""

import asyncio
import json
import os
import random
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import pytest
from websockets.sync.client import ClientConnection

from tests.faults.engine import engine_at
from tests.faults.proxy import Fault, Proxy
from tests.gateway.echo import Echo
from tests.gateway.test_conversation import answer, talking
from tests.gateway.test_stream import events
from tests.gateway.world import PRICE, PROMPT, World, app_with, build_world, listening, until
from trimtab.engine.wire.remote import RemoteEngine
from trimtab.gateway import catalogue, tables
from trimtab.gateway.streams import live
from trimtab.gateway.tiers import breaker, retry
from trimtab.store.rows import insert_or_update

DEADLINE_S = 1.6
# What the machine may take on top of a deadline when it is busy.
GRACE_S = 1.5
ASK = {"model": "desk", "prompt": PROMPT, "max_tokens": 5}

# fault -> (tier of a whole answer with a template, status without one, attempts at most)
# A fault of the connection hits both tiers, since they share an engine.
TABLE: list[tuple[Fault, str, int, int]] = [
    ("none", "adapter", 200, 1),
    ("refuse", "safe_template", 503, 4),
    ("mute", "safe_template", 504, 2),
    ("silent", "safe_template", 504, 2),
    ("dribble", "safe_template", 504, 2),
    ("half close", "safe_template", 503, 4),
    ("reset mid-stream", "safe_template", 503, 4),
    ("garbage", "safe_template", 503, 4),
    ("truncated", "safe_template", 503, 4),
    ("html", "safe_template", 503, 4),
    ("error storm", "safe_template", 503, 4),
    ("overloaded", "safe_template", 503, 1),
    ("busy for an hour", "safe_template", 503, 1),
    ("foreign frame", "safe_template", 503, 4),
    ("duplicate end", "adapter", 200, 1),
]


class Way:
    """From a client to an engine, with everything real between them."""

    def __init__(self, world: World, proxy: Proxy, echo: Echo, client: httpx.Client) -> None:
        self.world = world
        self.proxy = proxy
        self.echo = echo
        self.client = client

    def declare(self, template: str | None, deadline_s: float = DEADLINE_S) -> None:
        row = {"deployment": "desk", "safe_template": template, "deadline_s": deadline_s}
        with self.world.database.transaction() as connection:
            insert_or_update(connection, tables.policies, row, key=["deployment"])

    def rest(self) -> None:
        """Nothing is held, nothing runs, no connection stands."""
        until(lambda: self.world.account().held_nano == 0, seconds=60)
        until(lambda: self.echo.running == 0, seconds=60)
        until(lambda: self.proxy.open == 0, seconds=60)


@pytest.fixture(scope="module")
def base_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from tests.tiny import build_tokenizer

    return build_tokenizer(tmp_path_factory.mktemp("base"))


@contextmanager
def built(folder: Path, base_folder: Path) -> Iterator[Way]:
    echo, loop = Echo(), asyncio.new_event_loop()
    proxy = Proxy(folder / "proxy.sock", folder / "engine.sock")
    started, stopped = threading.Event(), asyncio.Event()

    async def serve() -> None:
        async with engine_at(proxy.engine, echo), proxy.running():
            started.set()
            await stopped.wait()

    thread = threading.Thread(target=loop.run_until_complete, args=(serve(),))
    thread.start()
    started.wait(10)
    world = build_world(folder, base_folder)
    try:
        with listening(app_with(world, RemoteEngine(proxy.listen)), world.key.key) as client:
            assert client.get("/readyz").status_code == 200
            yield Way(world, proxy, echo, client)
    finally:
        loop.call_soon_threadsafe(stopped.set)
        thread.join()
        loop.close()
        world.database.close()


@pytest.fixture
def between(tmp_path: Path, base_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Way]:
    # A load that nobody answers is asked for anew, once it has had its time.
    monkeypatch.setattr(catalogue, "LOAD_S", 2 * DEADLINE_S)
    with built(tmp_path, base_folder) as made:
        made.proxy.byte_s = 0.02
        yield made


def ask(between: Way, streamed: bool) -> tuple[int, dict[str, Any], float]:
    """Status (the one in the error event of a stream), the answer or problem, and seconds."""
    started = time.monotonic()
    response = between.client.post("/v1/generate", json={**ASK, "stream": streamed})
    took = time.monotonic() - started
    if not streamed or response.status_code != 200:
        return response.status_code, response.json(), took
    event, data = events(response.text)[-1]
    return (200 if event == "done" else data["status"]), data, took


def asked_over(socket: ClientConnection) -> tuple[int, dict[str, Any], float]:
    """As `ask`, of a stream over a WebSocket."""
    started = time.monotonic()
    socket.send(json.dumps(ASK))
    last = answer(socket)[-1]
    return last["data"].get("status", 200), last["data"], time.monotonic() - started


@pytest.mark.parametrize(("fault", "tier", "status", "attempts"), TABLE)
def test_every_fault_has_its_answer(
    between: Way, fault: Fault, tier: str, status: int, attempts: int
) -> None:
    world, proxy = between.world, between.proxy
    between.declare("Later.")
    assert between.client.get("/readyz").status_code == 200
    ask(between, streamed=False)
    proxy.fault, before = fault, world.account().spent_nano
    proxy.calls = 0
    got, told, took = ask(between, streamed=False)
    assert took < DEADLINE_S + GRACE_S
    assert (got, told["tier"]) == (200, tier), told
    assert told["degraded"] == (tier != "adapter")
    assert proxy.calls <= attempts + (1 if fault == "refuse" else 0)
    generated = tier == "adapter"
    paid = PRICE.of(world.prompt_tokens, 5) if generated else 0
    assert world.account().spent_nano - before == round(told["cost_usd"] * 1e9) == paid
    assert world.log()[-1].attempts <= attempts
    between.declare(None)
    time.sleep(0.3)
    got, problem, took = ask(between, streamed=False)
    assert took < DEADLINE_S + GRACE_S
    assert got == status, problem
    if status != 200:
        assert problem["retryable"]
        assert str(proxy.engine) not in json.dumps(problem)
    proxy.fault = "none"
    between.rest()
    check_books(between)


@pytest.mark.parametrize(("fault", "tier", "status", "attempts"), TABLE)
def test_every_fault_ends_a_stream_within_the_deadline(
    between: Way, fault: Fault, tier: str, status: int, attempts: int
) -> None:
    """One of server-sent events and one over a WebSocket, which stays open for the next frame."""
    between.declare(None)
    assert between.client.get("/readyz").status_code == 200
    between.proxy.fault = fault
    with ThreadPoolExecutor(1) as beside, talking(between.client, between.world.key.key) as socket:
        events_told = beside.submit(ask, between, streamed=True)
        told = [asked_over(socket), events_told.result()]
        socket.send("{")
        assert answer(socket)[-1]["data"]["code"] == "invalid_request"
    for got, last, took in told:
        assert took < DEADLINE_S + GRACE_S
        assert got == status, last
        assert status == 200 or last["retryable"]
    assert between.proxy.calls <= 2 * (attempts + (1 if fault == "refuse" else 0))
    between.proxy.fault = "none"
    between.rest()
    logged = [each for each in between.world.log() if each.error_code != "invalid_request"]
    assert len(logged) == 2
    for each in logged:
        seen = each.completion_tokens
        assert (seen == 5) if status == 200 else (seen <= 2)
        assert each.cost_nano == (PRICE.of(between.world.prompt_tokens, seen) if seen else 0)
    check_books(between)


def test_when_everything_fails_the_engine_is_hardly_asked(between: Way) -> None:
    """100 requests, all refused by the engine: 1.2 attempts a request at most, all told."""
    between.declare(None, deadline_s=5.0)
    assert between.client.get("/readyz").status_code == 200
    between.proxy.fault = "error storm"
    statuses = {ask(between, streamed=False)[0] for _ in range(100)}
    assert statuses == {503}
    assert between.proxy.calls <= 1.2 * 100
    assert between.proxy.calls <= 2 * breaker.FAILURES + retry.STORE
    assert between.world.account().spent_nano == 0
    check_books(between)


def test_a_long_wait_is_told_and_not_waited_for(between: Way) -> None:
    """As where a server says 429 with a long Retry-After."""
    between.declare(None, deadline_s=30.0)
    assert between.client.get("/readyz").status_code == 200
    between.proxy.fault = "busy for an hour"
    started = time.monotonic()
    for streamed in (False, True):
        told = between.client.post("/v1/generate", json={**ASK, "stream": streamed})
        assert (told.status_code, told.json()["code"]) == (503, "overloaded")
        assert told.headers["retry-after"] == "3600"
        assert told.json()["retryable"]
    assert time.monotonic() - started < GRACE_S
    assert between.proxy.calls == 2
    check_books(between)


def test_an_engine_that_comes_back_is_used_again(
    between: Way, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(breaker, "OPEN_S", 0.3)
    between.declare("Later.")
    assert between.client.get("/readyz").status_code == 200
    between.proxy.fault = "refuse"
    for _ in range(8):
        assert ask(between, streamed=False)[1]["tier"] == "safe_template"
    between.proxy.fault = "none"
    until(lambda: ask(between, streamed=False)[1]["tier"] == "adapter")


def test_clients_that_vanish_at_random_leave_nothing(
    between: Way, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The short form of the campaign: no hold, no slot, no connection, no descriptor is left."""
    monkeypatch.setattr(live, "RESUME_S", 0.2)
    between.declare(None, deadline_s=30.0)
    assert between.client.get("/readyz").status_code == 200
    between.echo.words, between.echo.pause_s = 100, 0.005
    chance = random.Random(3)
    vanish(between, 30, chance)  # so that the pool of database connections has its size
    between.rest()
    files = descriptors()
    vanish(between, 50, chance)
    between.rest()
    check_books(between)
    until(lambda: descriptors() <= files + 2)
    assert any(logged.status == 499 for logged in between.world.log())


def descriptors() -> int:
    """Those that are open, but for the database's: its pool has a bound of its own."""
    found = 0
    for name in os.listdir("/proc/self/fd"):
        with suppress(OSError):
            found += "trimtab.db" not in os.readlink(f"/proc/self/fd/{name}")
    return found


def vanish(between: Way, clients: int, chance: random.Random) -> None:
    """So many clients at once, each leaving at an instant of its own: while it asks, while it is
    answered, after its end; streams, whole answers, and streams that could be taken up again."""
    address, headers = between.client.base_url, between.client.headers

    async def one(client: httpx.AsyncClient) -> None:
        kind = chance.choice(["stream", "whole", "resumable"])
        body = {**ASK, "max_tokens": 100, "stream": kind != "whole"}
        more = {"Idempotency-Key": f"k{chance.random()}"} if kind == "resumable" else {}
        with suppress(TimeoutError):
            async with asyncio.timeout(chance.random() * 1.2):
                await client.post("/v1/generate", json=body, headers=more)

    async def all_of_them() -> None:
        limits = httpx.Limits(max_connections=None)
        async with httpx.AsyncClient(
            base_url=address, headers=headers, timeout=30, limits=limits
        ) as client:
            await asyncio.gather(*(one(client) for _ in range(clients)))

    asyncio.run(all_of_them())


def check_books(between: Way) -> None:
    """The ledger is the sum of the log, to the nano-dollar."""
    world = between.world
    account = world.account()
    assert account.spent_nano == sum(logged.cost_nano for logged in world.log())
    for logged in world.log():
        assert logged.cost_nano <= PRICE.of(logged.prompt_tokens, logged.completion_tokens)
