"""Embeddings in batches: with OpenAI's own client, at a cost that is booked, behind others."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from openai import OpenAI

from tests.gateway.echo import Echo
from tests.gateway.offline_world import ended, jsonl, results, shown, started, upload
from tests.gateway.world import World, app_with, listening, until
from tests.tiny_bert import build_encoder
from trimtab.embed.encoder import Encoder
from trimtab.engine.encoding import EncoderEngine
from trimtab.errors import EngineUnavailable
from trimtab.gateway import embeddings, keys
from trimtab.gateway.offline import asking, requests, worker
from trimtab.gateway.tiers import breaker
from trimtab.inference import EmbedRequest, Vector
from trimtab.ledger.money import Price
from trimtab.ledger.prices import set_price
from trimtab.registry import encoders
from trimtab.text.inputs import InputFormat

TEXTS = ["the invoice is wrong", "a", "the the the"]
PRICE = Price(prompt_nano=3_000, completion_nano=0)


class Watched(EncoderEngine):
    """A real engine that says what it was asked, and can be told to fail."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.asked: list[EmbedRequest] = []
        self.broken = False

    async def embed(self, request: EmbedRequest) -> list[Vector]:
        self.asked.append(request)
        if self.broken:
            raise EngineUnavailable("/run/encoder.sock: gone")
        return await super().embed(request)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_encoder(tmp_path_factory.mktemp("encoder"))


@pytest.fixture
def engine(folder: Path) -> Watched:
    return Watched(folder)


@pytest.fixture
def client(
    world: World, folder: Path, engine: Watched, monkeypatch: pytest.MonkeyPatch
) -> Iterator[httpx.Client]:
    monkeypatch.setattr(asking, "BASE_S", 0.02)
    monkeypatch.setattr(asking, "BUSY_S", 0.02)
    monkeypatch.setattr(worker, "POLL_S", 0.1)
    encoder = encoders.read(folder, "tiny-encoder")
    with world.database.transaction() as connection:
        encoders.add(connection, encoder)
        set_price(connection, encoder.hash, PRICE)
    app = app_with(world, Echo(), encodes=lambda _: engine)
    with listening(app, world.key.key, works=True) as speaking:
        yield speaking


def line(custom_id: str, **more: Any) -> dict[str, Any]:
    body = {"model": "tiny-encoder", "input": TEXTS, **more}
    return {"custom_id": custom_id, "method": "POST", "url": "/v1/embeddings", "body": body}


def test_openais_client_embeds_a_file(
    world: World, client: httpx.Client, folder: Path, engine: Watched
) -> None:
    lines = [line("one"), line("two", input="a", user="u-2", encoding_format="base64")]
    with OpenAI(api_key=world.key.key, base_url=f"{client.base_url}/v1", max_retries=0) as theirs:
        file = theirs.files.create(file=("texts.jsonl", jsonl(lines)), purpose="batch")
        made = theirs.batches.create(
            input_file_id=file.id, endpoint="/v1/embeddings", completion_window="24h"
        )
        until(lambda: theirs.batches.retrieve(made.id).status == "completed", 30)
        output = theirs.batches.retrieve(made.id).output_file_id
        online = theirs.embeddings.create(model="tiny-encoder", input=TEXTS)
    one, two = results(client, output)
    assert (one["custom_id"], two["custom_id"]) == ("one", "two")
    body = one["response"]["body"]
    form = InputFormat(folder, 24)
    wanted = Encoder(folder).encode([form.of_text(text) for text in TEXTS])
    for given, same, vector in zip(body["data"], online.data, wanted, strict=True):
        assert given["embedding"] == pytest.approx(vector, abs=1e-6)
        assert given["embedding"] == pytest.approx(same.embedding, abs=1e-6)
    assert isinstance(two["response"]["body"]["data"][0]["embedding"], str)
    tokens = sum(len(form.of_text(text)) for text in TEXTS)
    assert body["usage"] == {"prompt_tokens": tokens, "total_tokens": tokens}
    logged = {answered.id: answered for answered in world.log()}
    for told in (one, two):
        found = logged[told["id"]]
        cost = round(told["response"]["body"]["trimtab"]["cost_usd"] * 1e9)
        assert cost == found.cost_nano == world.spent_for(found) > 0
        assert found.route == "batch.embeddings"
    assert (logged[one["id"]].cost_nano, logged[two["id"]].user_id) == (PRICE.of(tokens, 0), "u-2")
    assert world.account().held_nano == 0
    assert [request.priority for request in engine.asked] == ["batch", "batch", "interactive"]


def test_a_line_is_asked_in_small_parts(
    client: httpx.Client, engine: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embeddings, "FEW", 2)
    ended(client, started(client, jsonl([line("a")]), "/v1/embeddings"))
    assert [len(request.inputs) for request in engine.asked] == [2, 1]
    client.post("/v1/embeddings", json=line("a")["body"])
    assert len(engine.asked[-1].inputs) == 3


def test_what_can_never_be_embedded_is_a_dead_letter(world: World, client: httpx.Client) -> None:
    lines = [line("good"), line("nobody", model="desk"), line("long", input="the " * 40)]
    done = ended(client, started(client, jsonl(lines), "/v1/embeddings"))
    assert done["request_counts"] == {"total": 3, "completed": 1, "failed": 2}
    errors = results(client, done["error_file_id"])
    assert [each["error"]["code"] for each in errors] == ["model_not_found", "too_long"]
    assert world.account().spent_nano == world.log()[0].cost_nano
    assert world.account().held_nano == 0


def test_an_encoder_that_is_gone_makes_it_wait(
    world: World, client: httpx.Client, engine: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(breaker, "OPEN_S", 0.3)
    engine.broken = True
    batch = started(client, jsonl([line(f"{n}") for n in range(6)]), "/v1/embeddings")
    until(lambda: shown(client, batch)["trimtab"]["waits_for"] == "breaker_open")
    assert world.account().held_nano == 0
    engine.broken = False
    assert ended(client, batch)["request_counts"]["completed"] == 6
    assert len(world.log()) == 6


def test_an_encoder_whose_files_changed_makes_it_wait(
    world: World, client: httpx.Client, folder: Path, engine: Watched, tmp_path: Path
) -> None:
    damaged = build_encoder(tmp_path / "other", seed=3)
    other = encoders.read(damaged, "other")
    tokenizer = damaged / "tokenizer.json"
    whole = tokenizer.read_text()
    with world.database.transaction() as connection:
        encoders.add(connection, other)
        set_price(connection, other.hash, PRICE)
    tokenizer.write_text("{")
    batch = started(client, jsonl([line("a", model="other")]), "/v1/embeddings")
    until(lambda: shown(client, batch)["trimtab"]["waits_for"] == "identity_mismatch")
    assert not engine.asked
    tokenizer.write_text(whole)
    client.post(f"/v1/batches/{batch}/cancel")
    assert ended(client, batch)["status"] == "cancelled"


def test_a_key_needs_the_scope_and_a_file_its_bounds(
    world: World, client: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(requests, "VECTORS", 5)
    refused = upload(client, jsonl([line("a"), line("b")]))
    assert (refused.status_code, "line 2: body.input" in refused.text) == (400, True)
    refused = upload(client, jsonl([line("a", dimensions=0)]))
    assert "line 1: body.dimensions" in refused.text
    file = upload(client, jsonl([line("a")])).json()["id"]
    with world.database.transaction() as connection:
        deaf = keys.create(connection, "deaf", "somebody", scopes=["batches", "generate"])
    body = {"input_file_id": file, "endpoint": "/v1/embeddings", "completion_window": "24h"}
    headers = {"Authorization": f"Bearer {deaf.key}"}
    answer = client.post("/v1/batches", json=body, headers=headers)
    assert (answer.status_code, "'embed'" in answer.text) == (403, True)
