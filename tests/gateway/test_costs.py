"""What an answer costs is in the answer, in the log and in the ledger: one and the same integer.

A table of every way to ask and whatever can become of it. The price has no round figures, and the
costs in answers are read as decimals, so that a nano-dollar too many or too few is seen.
"""

import asyncio
import json
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

import httpx
import pytest
from websockets.sync.client import connect

from tests.gateway.echo import Echo
from tests.gateway.offline_world import ended, jsonl, results, started
from tests.gateway.world import PROMPT, World, app_with, build_world, listening, until
from trimtab.errors import EngineUnavailable
from trimtab.gateway import embeddings, keys, tables
from trimtab.gateway.keys import Created
from trimtab.gateway.offline import asking, worker
from trimtab.gateway.tiers import breaker, retry
from trimtab.inference import Chunk, EmbedRequest, GenerateRequest, Score, ScoreRequest, Vector
from trimtab.journal.requests import Answered
from trimtab.ledger.money import NANO, Price
from trimtab.ledger.prices import set_price
from trimtab.ledger.tables import spends
from trimtab.registry import deployments, encoders
from trimtab.registry.encoders import Encoder
from trimtab.store.rows import insert_or_update

PRICE = Price(prompt_nano=1_003, completion_nano=7_919)
GONE = EngineUnavailable("/run/engine.sock: gone")
WORDS = {"prompt": PROMPT, "max_tokens": 5}
TURNS = {"messages": [{"role": "user", "content": PROMPT}], "max_tokens": 5}


@dataclass
class Engine(Echo):
    """Refuses its first `failing` attempts, and pauses before every part of its work."""

    failing: int = 0

    async def generate(self, request: GenerateRequest) -> AsyncGenerator[Chunk, None]:
        self._fail()
        async for chunk in super().generate(request):
            yield chunk

    async def score(self, request: ScoreRequest) -> list[Score]:
        self._fail()
        return await self._slowly(super().score(request))

    async def embed(self, request: EmbedRequest) -> list[Vector]:
        self._fail()
        if self.die_after is not None:
            raise GONE
        await asyncio.sleep(self.pause_s if request.id.endswith("-2") else 0)
        return [(0.6, 0.8)] * len(request.inputs)

    async def _slowly(self, work: Any) -> list[Score]:
        self.running += 1
        try:
            await asyncio.sleep(self.pause_s)
            found: list[Score] = await work
            return found
        finally:
            self.running -= 1
            work.close()

    def _fail(self) -> None:
        self.failing -= 1
        if self.failing >= 0:
            raise GONE


@dataclass
class Place:
    """A gateway, and a key of which nothing was asked yet."""

    client: httpx.Client
    world: World
    engine: Engine
    key: Created

    @property
    def headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.key.key}"}

    def log(self) -> list[Answered]:
        return [each for each in self.world.log() if each.key_id == self.key.id]

    def agree(self) -> list[Answered]:
        """What was logged, after what is logged, spent and counted was found to be the same."""
        logged = self.log()
        with self.world.database.read() as connection:
            query = spends.select().where(spends.c.key_id == self.key.id)
            spent = {row.request_id: row.amount_nano for row in connection.execute(query)}
        assert {each.id: each.cost_nano for each in logged if each.cost_nano} == {
            request: amount for request, amount in spent.items() if amount
        }
        for each in logged:
            assert each.cost_nano == PRICE.of(each.prompt_tokens, each.completion_tokens)
        budget = self.world.account(self.key)
        assert (budget.spent_nano, budget.held_nano) == (sum(spent.values()), 0)
        return logged


@dataclass(frozen=True)
class Way:
    """One route, whole or streamed. `can` are the outcomes that it knows beside `ok`, `error` and
    `cancelled`."""

    name: str
    path: str
    body: dict[str, Any]
    can: tuple[str, ...] = ()
    streamed: bool = False
    offline: bool = False
    socket: bool = False

    def ask(self, place: Place, name: str | None = None, **more: Any) -> list[Decimal]:
        """The costs that an answer told; `name` is its Idempotency-Key."""
        body = {"model": "desk", **self.body, **more}
        if self.offline:
            return self._offline(place, body)
        if self.socket:
            return [cost for event in talk(place, body) for cost in costs(event)]
        headers = place.headers if name is None else {**place.headers, "Idempotency-Key": name}
        answer = place.client.post(self.path, json=body, headers=headers)
        if not self.streamed:
            return costs(read(answer.text))
        lines = [line[6:] for line in answer.text.split("\n") if line.startswith("data: {")]
        return [cost for line in lines for cost in costs(read(line))]

    def _offline(self, place: Place, body: dict[str, Any]) -> list[Decimal]:
        line = {"custom_id": "a", "method": "POST", "url": self.path, "body": body}
        place.client.headers.update(place.headers)
        done = ended(place.client, started(place.client, jsonl([line]), self.path))
        return [c for told in results(place.client, done["output_file_id"]) for c in costs(told)]

    def leave(self, place: Place) -> None:
        """Ask, and go while it is answered."""
        body = {"model": "desk", **self.body, "max_tokens": 50}
        if "completions" in self.body or "input" in self.body:
            del body["max_tokens"]
        if self.offline:
            line = {"custom_id": "a", "method": "POST", "url": self.path, "body": body}
            place.client.headers.update(place.headers)
            batch = started(place.client, jsonl([line]), self.path)
            until(lambda: place.engine.running > 0 or bool(place.log()))
            place.client.post(f"/v1/batches/{batch}/cancel")
            ended(place.client, batch)
        elif self.socket:
            next(talk(place, body))
        elif self.streamed:
            with place.client.stream(
                "POST", self.path, json=body, headers=place.headers
            ) as response:
                next(response.iter_text())
        else:
            with suppress(httpx.ReadTimeout):
                place.client.post(self.path, json=body, headers=place.headers, timeout=0.15)


STREAM = {"stream": True}
USAGE = {"stream": True, "stream_options": {"include_usage": True}}
SCORED = {"prompt": PROMPT, "completions": ["yes", "no no"]}
EMBEDDED = {"model": "encoder", "input": ["yes", "no", "my invoice"]}
ONLINE = [
    Way("generate", "/v1/generate", WORDS, ("replayed", "retried", "template")),
    Way(
        "generate, streamed",
        "/v1/generate",
        {**WORDS, **STREAM},
        ("replayed", "retried", "template"),
        streamed=True,
    ),
    Way("WebSocket", "/v1/stream", WORDS, ("retried", "template"), socket=True),
    Way("chat", "/v1/chat/completions", TURNS, ("replayed", "retried", "template")),
    Way(
        "chat, streamed",
        "/v1/chat/completions",
        {**TURNS, **STREAM},
        ("retried", "template"),
        streamed=True,
    ),
    Way(
        "chat, streamed with usage",
        "/v1/chat/completions",
        {**TURNS, **USAGE},
        streamed=True,
    ),
    Way("completions", "/v1/completions", WORDS, ("replayed", "retried", "template")),
    Way(
        "completions, streamed",
        "/v1/completions",
        {**WORDS, **STREAM},
        ("retried", "template"),
        streamed=True,
    ),
    Way("score", "/v1/score", SCORED, ("replayed", "retried")),
    Way("embeddings", "/v1/embeddings", EMBEDDED, ("replayed",)),
]
OFFLINE = [
    Way(f"batch of {path}", path, body, ("retried",), offline=True)
    for path, body in (
        ("/v1/generate", WORDS),
        ("/v1/chat/completions", TURNS),
        ("/v1/completions", WORDS),
        ("/v1/score", SCORED),
        ("/v1/embeddings", EMBEDDED),
    )
]
WAYS = [*ONLINE, *OFFLINE]


def all_that(can: str) -> pytest.MarkDecorator:
    ways = [way for way in WAYS if can in way.can]
    return pytest.mark.parametrize("way", ways, ids=lambda way: str(way.name))


every_way = pytest.mark.parametrize("way", WAYS, ids=lambda way: str(way.name))


@pytest.fixture(scope="module")
def served(
    tmp_path_factory: pytest.TempPathFactory, base_folder: Path
) -> Iterator[Callable[[], Place]]:
    """Makes places at one gateway whose breakers never open and whose retries do not run out."""
    world, engine = build_world(tmp_path_factory.mktemp("costs"), base_folder), Engine()
    encoder = Encoder("e" * 64, "encoder", base_folder, dimensions=2, max_tokens=64)
    sorry = {"deployment": "sorry", "safe_template": "Later.", "deadline_s": 30.0}
    with world.database.transaction() as connection:
        encoders.add(connection, encoder)
        for version in (world.adapter.hash, world.base.hash, encoder.hash):
            set_price(connection, version, PRICE)
        deployments.create(connection, "sorry", "support-desk", world.base.hash)
        insert_or_update(connection, tables.policies, sorry, key=["deployment"])
    app = app_with(world, engine, encodes=lambda _: engine)

    def fresh() -> Place:
        engine.pause_s, engine.words, engine.die_after, engine.failing = 0.0, 5, None, 0
        with world.database.transaction() as connection:
            key = keys.create(connection, "test", "somebody", "1", scopes=keys.SCOPES)
        return Place(client, world, engine, key)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(breaker, "FAILURES", 10**6)
        patch.setattr(retry, "STORE", 10**6)
        patch.setattr(retry, "BASE_S", 0.001)
        patch.setattr(asking, "BASE_S", 0.005)
        patch.setattr(worker, "POLL_S", 0.05)
        patch.setattr(embeddings, "TOGETHER", 2)
        patch.setattr(embeddings, "FEW", 2)
        app.state.desk.upstreams.budget = retry.RetryBudget()
        with listening(app, works=True) as client:
            yield fresh
    world.database.close()


@pytest.fixture
def place(served: Callable[[], Place]) -> Place:
    return served()


@every_way
def test_an_answer_tells_what_is_logged_and_spent(place: Place, way: Way) -> None:
    told = way.ask(place)
    [logged] = place.agree()
    assert set(told) == {logged.cost_nano}
    assert (logged.status, logged.cost_nano > 0) == (200, True)


@every_way
def test_an_engine_that_dies_is_paid_what_it_made(place: Place, way: Way) -> None:
    place.engine.die_after = 2
    assert way.ask(place) == []
    logged = place.agree()
    if way.offline:
        assert logged == []  # a dead letter: nothing was spent
        return
    assert [each.status for each in logged] == [503]
    made = 0 if way.path in ("/v1/score", "/v1/embeddings") else 2
    assert logged[0].completion_tokens == made


@every_way
def test_a_client_that_goes_pays_what_was_made_until_then(place: Place, way: Way) -> None:
    place.engine.pause_s, place.engine.words = 0.03, 10 if way.offline else 50
    if way.path in ("/v1/score", "/v1/embeddings"):
        place.engine.pause_s = 0.5
    way.leave(place)
    until(lambda: bool(place.log()))
    [logged] = place.agree()
    if way.offline:
        assert logged.status == 200  # what is under way ends, and was not cut off
        return
    assert logged.status == 499
    if way.path == "/v1/embeddings":
        assert 0 < logged.prompt_tokens < 9
    elif way.path != "/v1/score":
        assert 0 < logged.completion_tokens < 50


@all_that("retried")
def test_a_second_attempt_is_paid_alone(place: Place, way: Way) -> None:
    place.engine.failing = 1
    told = way.ask(place)
    [logged] = place.agree()
    assert set(told) == {logged.cost_nano}
    assert (logged.status, logged.attempts) == (200, 1 if way.offline else 2)


@all_that("replayed")
def test_what_is_replayed_tells_its_cost_and_is_paid_once(place: Place, way: Way) -> None:
    told = [way.ask(place, "again") for _ in range(3)]
    [logged] = place.agree()
    assert told == [[logged.cost_nano]] * 3


@all_that("template")
def test_the_safe_template_tells_that_it_cost_nothing(place: Place, way: Way) -> None:
    place.engine.failing = 100
    assert set(way.ask(place, model="sorry")) == {0}
    [logged] = place.agree()
    assert (logged.status, logged.tier, logged.cost_nano) == (200, "safe_template", 0)


def talk(place: Place, body: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The events of one answer over a WebSocket."""
    address = f"ws://127.0.0.1:{place.client.base_url.port}/v1/stream"
    with connect(address, additional_headers=place.headers) as socket:
        socket.send(json.dumps(body))
        event = ""
        while event not in ("done", "error"):
            frame = read(str(socket.recv(timeout=10)))
            event = frame["event"]
            yield frame


def read(text: str) -> Any:
    return json.loads(text, parse_float=Decimal)


def costs(told: Any) -> list[Decimal]:
    """Every `cost_usd` in an answer, in nano-dollars, to the last digit."""
    if isinstance(told, list):
        return [cost for each in told for cost in costs(each)]
    if not isinstance(told, dict):
        return []
    found = [told["cost_usd"] * NANO] if "cost_usd" in told else []
    return found + [cost for each in told.values() for cost in costs(each)]
