"""Embeddings with OpenAI's own client: what they are, what they cost, and what is refused."""

import asyncio
import base64
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from openai import OpenAI

from tests.gateway.echo import Echo
from tests.gateway.world import World, app_with, listening
from tests.tiny_bert import build_encoder
from trimtab.embed.encoder import Encoder
from trimtab.engine.encoding import EncoderEngine
from trimtab.errors import EngineUnavailable
from trimtab.gateway import keys
from trimtab.gateway.keys import Limits
from trimtab.gateway.streams import stream
from trimtab.gateway.tiers import breaker
from trimtab.inference import EmbedRequest, Vector
from trimtab.ledger.money import Price
from trimtab.ledger.prices import set_price
from trimtab.registry import encoders
from trimtab.text.inputs import InputFormat

TEXTS = ["the invoice is wrong", "a", "the the the"]
PRICE = Price(prompt_nano=3_000, completion_nano=0)


class Breakable(EncoderEngine):
    """A real engine that can be told to fail."""

    broken = False
    silent = False

    async def embed(self, request: EmbedRequest) -> list[Vector]:
        if self.silent:
            await asyncio.sleep(60)
        if self.broken:
            raise EngineUnavailable("/run/encoder.sock: gone")
        return await super().embed(request)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_encoder(tmp_path_factory.mktemp("encoder"))


@pytest.fixture
def engine(folder: Path) -> Breakable:
    return Breakable(folder)


@pytest.fixture
def client(world: World, folder: Path, engine: Breakable) -> Iterator[httpx.Client]:
    encoder = encoders.read(folder, "tiny-encoder")
    with world.database.transaction() as connection:
        encoders.add(connection, encoder)
        set_price(connection, encoder.hash, PRICE)
    with listening(app_with(world, Echo(), encodes=lambda _: engine), world.key.key) as speaking:
        yield speaking


@pytest.fixture
def theirs(world: World, client: httpx.Client) -> Iterator[OpenAI]:
    made = OpenAI(api_key=world.key.key, base_url=f"{client.base_url}/v1", max_retries=0)
    yield made
    made.close()


def expected(folder: Path, texts: list[str]) -> list[Vector]:
    form = InputFormat(folder, 24)
    return Encoder(folder).encode([form.of_text(text) for text in texts])


def test_vectors_are_the_encoders_and_their_cost_is_booked(
    world: World, theirs: OpenAI, folder: Path
) -> None:
    answer = theirs.embeddings.create(model="tiny-encoder", input=TEXTS, user="u-1")
    assert [each.index for each in answer.data] == [0, 1, 2]
    for each, vector in zip(answer.data, expected(folder, TEXTS), strict=True):
        assert each.embedding == pytest.approx(vector, abs=1e-6)
    form = InputFormat(folder, 24)
    tokens = sum(len(form.of_text(text)) for text in TEXTS)
    assert (answer.usage.prompt_tokens, answer.usage.total_tokens) == (tokens, tokens)
    told = answer.model_extra["trimtab"]  # type: ignore[index]
    [logged] = world.log()
    assert (logged.route, logged.status, logged.user_id) == ("embeddings", 200, "u-1")
    assert logged.model_version == told["model_version"] == encoders.read(folder, "x").hash
    assert logged.cost_nano == round(told["cost_usd"] * 1e9) == PRICE.of(tokens, 0)
    assert world.spent_for(logged) == logged.cost_nano == world.account().spent_nano
    assert world.account().held_nano == 0


def test_a_text_and_its_tokens_are_the_same_input(theirs: OpenAI, folder: Path) -> None:
    form = InputFormat(folder, 24)
    [vector] = expected(folder, TEXTS[:1])
    bare = list(form.of_text(TEXTS[0]))[1:-1]
    given: list[Any] = [TEXTS[0], TEXTS[:1], bare, [bare]]
    for each in given:
        for spelling in ("float", "base64"):
            answer = theirs.embeddings.create(
                model="tiny-encoder",
                input=each,
                encoding_format=spelling,  # type: ignore[arg-type]
                dimensions=32,
            )
            [found] = answer.data
            got: Any = found.embedding
            if isinstance(got, str):
                got = struct.unpack("<32f", base64.b64decode(got))
            assert list(got) == pytest.approx(vector, abs=1e-6)


def test_many_inputs_go_in_parts(
    theirs: OpenAI, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trimtab.gateway.embeddings.TOGETHER", 2)
    answer = theirs.embeddings.create(model="tiny-encoder", input=TEXTS)
    for each, vector in zip(answer.data, expected(folder, TEXTS), strict=True):
        assert each.embedding == pytest.approx(vector, abs=1e-6)


def test_an_encoder_is_listed_with_what_it_can(theirs: OpenAI, client: httpx.Client) -> None:
    assert [model.id for model in theirs.models.list()] == ["desk", "tiny-encoder"]
    assert theirs.models.retrieve("tiny-encoder").owned_by == "trimtab"
    [encoder] = client.get("/v1/models").json()["encoders"]
    assert (encoder["dimensions"], encoder["context"]) == (32, 24)
    assert encoder["price"]["prompt_usd_per_million_tokens"] == 3.0
    assert client.get("/readyz").status_code == 200


UNFIT: list[tuple[str, dict[str, Any]]] = [
    ("input.1", {"input": ["a", "the " * 40]}),
    ("input.0", {"input": [[10_000]]}),
    ("dimensions", {"dimensions": 16}),
    ("encoding_format", {"encoding_format": "int8"}),
    ("colour", {"colour": "red"}),
]


@pytest.mark.parametrize(("field", "more"), UNFIT)
def test_what_does_not_fit_is_named(
    world: World, client: httpx.Client, field: str, more: dict[str, Any]
) -> None:
    body = {"model": "tiny-encoder", "input": "a", **more}
    answer = client.post("/v1/embeddings", json=body)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, field)
    assert world.account().spent_nano == 0


@pytest.mark.parametrize("given", ["", [], [""], [[]], [1, "a"], None, {"a": 1}, 7, [[-1]], [1.5]])
def test_what_is_no_input_is_refused(client: httpx.Client, given: Any) -> None:
    answer = client.post("/v1/embeddings", json={"model": "tiny-encoder", "input": given})
    assert answer.status_code == 400
    assert answer.json()["error"]["param"].startswith("input")


def test_refusals_are_what_their_client_expects(world: World, theirs: OpenAI) -> None:
    create = theirs.embeddings.create
    with pytest.raises(openai.NotFoundError, match="tiny-encoder"):
        create(model="desk", input="a")
    with world.database.transaction() as connection:
        deaf = keys.create(connection, "deaf", "somebody", scopes=["generate"])
        slow = keys.create(
            connection,
            "slow",
            "somebody",
            limits=Limits(tokens_per_minute=5, requests_per_minute=9),
        )
    with pytest.raises(openai.PermissionDeniedError, match="'embed'"):
        theirs.with_options(api_key=deaf.key).embeddings.create(model="tiny-encoder", input="a")
    limited = theirs.with_options(api_key=slow.key).embeddings
    answer = limited.with_raw_response.create(model="tiny-encoder", input="a")
    assert '"tokens";q=5;w=60' in answer.headers["ratelimit-policy"]
    with pytest.raises(openai.RateLimitError):
        limited.create(model="tiny-encoder", input="the the")
    poor = theirs.with_options(api_key=world.new_key(1).key).embeddings
    with pytest.raises(openai.APIStatusError) as broke:
        poor.create(model="tiny-encoder", input="a")
    assert broke.value.status_code == 402


def test_an_engine_that_fails_costs_nothing_and_opens_the_breaker(
    world: World, client: httpx.Client, engine: Breakable
) -> None:
    engine.broken = True
    body = {"model": "tiny-encoder", "input": "a"}
    for _ in range(5):
        answer = client.post("/v1/embeddings", json=body)
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "engine_unavailable")
        assert "/run" not in answer.text
    assert "again and again" in client.post("/v1/embeddings", json=body).text
    assert (world.account().spent_nano, world.account().held_nano) == (0, 0)


def test_an_encoder_that_stays_silent_opens_the_breaker(
    world: World, client: httpx.Client, engine: Breakable, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream, "DEADLINE_S", 0.1)
    engine.silent = True
    body = {"model": "tiny-encoder", "input": "a"}
    for _ in range(breaker.FAILURES):
        answer = client.post("/v1/embeddings", json=body)
        assert (answer.status_code, answer.json()["error"]["code"]) == (504, "deadline_exceeded")
    assert "again and again" in client.post("/v1/embeddings", json=body).text
    assert (world.account().spent_nano, world.account().held_nano) == (0, 0)


def test_files_that_are_not_what_was_registered_answer_nobody(
    world: World, client: httpx.Client, folder: Path, tmp_path: Path
) -> None:
    other = encoders.read(build_encoder(tmp_path / "other", seed=3), "tiny-encoder")
    with world.database.transaction() as connection:
        encoders.add(connection, other)
        set_price(connection, other.hash, PRICE)
    # The engine still holds the encoder that had the name before.
    for _ in range(60):
        answer = client.post("/v1/embeddings", json={"model": "tiny-encoder", "input": "a"})
        if answer.status_code != 200:
            break
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "identity_mismatch")
    assert world.account().held_nano == 0


def test_the_same_request_is_paid_once(world: World, theirs: OpenAI) -> None:
    first, again = (
        theirs.embeddings.create(
            model="tiny-encoder", input=TEXTS, extra_headers={"Idempotency-Key": "a"}
        )
        for _ in range(2)
    )
    assert first == again
    assert len(world.log()) == 1


def test_a_gateway_without_encoders_knows_none(world: World) -> None:
    with listening(app_with(world, Echo()), world.key.key) as client:
        answer = client.post("/v1/embeddings", json={"model": "tiny-encoder", "input": "a"})
        assert answer.status_code == 404
        assert "--encoder" in answer.text
