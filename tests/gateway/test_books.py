"""Money: three figures that agree, limits that hold, and no work given away."""

import sqlite3
from collections.abc import AsyncGenerator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import httpx
import pytest

from tests.gateway.echo import Echo
from tests.gateway.world import PRICE, PROMPT, World, app_with, build_world, listening, until
from trimtab.inference import Chunk, GenerateRequest, Usage
from trimtab.ledger.accounts import account, budgets_of, set_budget
from trimtab.ledger.money import Price
from trimtab.ledger.prices import set_price

ASK = {"model": "desk", "prompt": PROMPT, "max_tokens": 5}


@contextmanager
def limited(
    world: World, engine: Echo, limit_nano: int | None
) -> Iterator[tuple[httpx.Client, str]]:
    """A client whose key may spend so many nano-dollars, and the id of the key."""
    key = world.new_key(limit_nano)
    with listening(app_with(world, engine), key.key) as client:
        yield client, key.id


def nano(answer: httpx.Response) -> int:
    return round(answer.json()["cost_usd"] * 1e9)


def test_answer_log_and_ledger_agree(world: World, client: httpx.Client) -> None:
    score = {"model": "desk", "prompt": PROMPT, "completions": ["yes", "no, never"]}
    answers = [client.post("/v1/generate", json=ASK), client.post("/v1/score", json=score)]
    for answer, logged in zip(answers, world.log(), strict=True):
        assert nano(answer) == logged.cost_nano == world.spent_for(logged) > 0
        usage = answer.json()["usage"]
        assert nano(answer) == PRICE.of(usage["prompt"], usage["completion"])
    assert world.account().spent_nano == sum(map(nano, answers))


def test_the_length_is_clamped_to_what_is_left(world: World, echo: Echo) -> None:
    limit = PRICE.of(world.prompt_tokens, 3) + PRICE.completion_nano - 1
    with limited(world, echo, limit) as (client, key_id):
        answer = client.post("/v1/generate", json=ASK)
        assert answer.json()["finish_reason"] == "length"
        assert answer.json()["usage"]["completion"] == 3
        refused = client.post("/v1/generate", json=ASK)
    assert (refused.status_code, refused.json()["code"]) == (402, "budget_exceeded")
    assert len(echo.asked) == 1
    with world.database.read() as connection:
        assert account(connection, key_id).spent_nano == PRICE.of(world.prompt_tokens, 3)


def test_a_users_label_opens_no_budget_and_fills_none(world: World, echo: Echo) -> None:
    with world.database.transaction() as connection:
        set_budget(connection, "owner", "rich", "total", 10**9)
    with limited(world, echo, PRICE.of(world.prompt_tokens, 5)) as (client, _):
        labelled = {**ASK, "user_id": "rich"}
        statuses = [client.post("/v1/generate", json=labelled).status_code for _ in range(2)]
    assert statuses == [200, 402]
    with world.database.read() as connection:
        [rich] = budgets_of(connection, ["owner:rich"])
    assert (rich.spent_nano, rich.held_nano) == (0, 0)


@pytest.mark.parametrize(("missing", "status"), [(0, 200), (1, 402)])
def test_the_prompt_and_one_token_must_fit(
    world: World, echo: Echo, missing: int, status: int
) -> None:
    limit = PRICE.of(world.prompt_tokens, 1) - missing
    with limited(world, echo, limit) as (client, _):
        assert client.post("/v1/generate", json=ASK).status_code == status
    assert len(echo.asked) == 1 - missing


def test_a_score_is_not_clamped(world: World, echo: Echo) -> None:
    limit = PRICE.of(world.prompt_tokens, 1)
    score = {"model": "desk", "prompt": PROMPT, "completions": ["yes it is"]}
    with limited(world, echo, limit) as (client, _):
        assert client.post("/v1/score", json=score).status_code == 402
    assert echo.asked == []


def test_requests_at_once_never_overspend(world: World, echo: Echo) -> None:
    echo.pause_s = 0.002
    affordable = PRICE.of(world.prompt_tokens, 5) * 6
    with limited(world, echo, affordable) as (client, key_id), ThreadPoolExecutor(12) as pool:
        answers = list(pool.map(lambda _: client.post("/v1/generate", json=ASK), range(30)))
        with world.database.read() as connection:
            after = account(connection, key_id)
    paid = [nano(answer) for answer in answers if answer.status_code == 200]
    assert {answer.status_code for answer in answers} == {200, 402}
    assert sum(paid) == after.spent_nano <= affordable
    assert after.held_nano == 0
    # Every nano-dollar that was held for nothing came back: what is left buys no further request.
    assert affordable - after.spent_nano < PRICE.of(world.prompt_tokens, 1)


def test_a_price_of_zero_is_free_and_said_so(world: World, echo: Echo) -> None:
    with world.database.transaction() as connection:
        set_price(connection, world.adapter.hash, Price(0, 0))
    with limited(world, echo, 0) as (client, _):
        answer = client.post("/v1/generate", json=ASK)
    assert (answer.status_code, answer.json()["cost_usd"]) == (200, 0)


class Remembering(Echo):
    """Has computed all of a prompt but its last token before."""

    async def generate(self, request: GenerateRequest) -> AsyncGenerator[Chunk, None]:
        async for chunk in super().generate(request):
            if (usage := chunk.usage) is not None:
                usage = Usage(usage.prompt, usage.completion, usage.prompt - 1)
            yield replace(chunk, usage=usage)


def test_what_a_prompt_had_in_the_cache_costs_its_own_price(world: World) -> None:
    price = Price(prompt_nano=1_000, completion_nano=7_000, cached_nano=250)
    with world.database.transaction() as connection:
        set_price(connection, world.adapter.hash, price)
    # What is held covers a prompt of which nothing is remembered.
    with limited(world, Remembering(), PRICE.of(world.prompt_tokens, 5)) as (client, _):
        answer = client.post("/v1/generate", json=ASK)
    [logged] = world.log()
    assert logged.cached_tokens == world.prompt_tokens - 1
    cost = 1_000 + 250 * (world.prompt_tokens - 1) + 7_000 * 5
    assert nano(answer) == logged.cost_nano == world.spent_for(logged) == cost


def test_who_leaves_does_not_pay_in_full_for_what_the_engine_may_have_remembered(
    world: World,
) -> None:
    price = Price(prompt_nano=1_000, completion_nano=7_000, cached_nano=250)
    with world.database.transaction() as connection:
        set_price(connection, world.adapter.hash, price)
    with limited(world, Remembering(words=50, pause_s=0.05), None) as (client, _):
        body = {**ASK, "max_tokens": 50, "stream": True}
        with client.stream("POST", "/v1/generate", json=body) as response:
            next(response.iter_text())
        until(lambda: bool(world.log()))
    [logged] = world.log()
    cost = price.least(world.prompt_tokens, logged.completion_tokens)
    assert logged.status == 499
    assert logged.cost_nano == world.spent_for(logged) == cost > 0


def test_a_version_without_a_price_is_not_free(world: World, client: httpx.Client) -> None:
    with world.database.transaction() as connection:
        connection.exec_driver_sql("DELETE FROM prices")
    refused = client.post("/v1/generate", json=ASK)
    assert (refused.status_code, refused.json()["code"]) == (503, "no_price")
    # Asking again is useless, and is not recommended.
    assert (refused.json()["retryable"], "retry-after" in refused.headers) == (False, False)
    assert client.get("/v1/models").json()["models"][0]["price"] is None


@contextmanager
def write_locked(world: World) -> Iterator[None]:
    other = sqlite3.connect(str(world.database.url.database), isolation_level=None)
    try:
        other.execute("BEGIN IMMEDIATE")
        yield
    finally:
        other.close()


@pytest.fixture
def impatient(
    tmp_path: Path, base_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[World]:
    """A world whose database waits for a lock no longer than a test wants to."""
    monkeypatch.setattr("trimtab.store.database.BUSY_S", 0.2)
    built = build_world(tmp_path, base_folder)
    yield built
    built.database.close()


def test_a_locked_database_refuses_work_and_comes_back(impatient: World, echo: Echo) -> None:
    with listening(app_with(impatient, echo), impatient.key.key) as client:
        with write_locked(impatient):
            for path, more in (("/v1/generate", {}), ("/v1/score", {"completions": ["yes"]})):
                body = {"model": "desk", "prompt": PROMPT, **more}
                refused = client.post(path, json=body)
                assert (refused.status_code, refused.json()["code"]) == (503, "store_unavailable")
                assert refused.json()["retryable"]
                assert "trimtab.db" not in refused.json()["detail"]
        assert echo.asked == []
        assert impatient.account().held_nano == 0
        assert client.post("/v1/generate", json=ASK).status_code == 200


def test_what_cannot_be_logged_is_not_settled_either(world: World, client: httpx.Client) -> None:
    """Hold and log line are one transaction: with a log that refuses, the hold stays."""
    with world.database.transaction() as connection:
        connection.exec_driver_sql(
            "CREATE TRIGGER full BEFORE INSERT ON requests BEGIN SELECT RAISE(ABORT, 'full'); END"
        )
    answer = client.post("/v1/generate", json=ASK)
    assert (answer.status_code, answer.json()["code"]) == (503, "store_unavailable")
    held = world.account()
    assert (held.spent_nano, held.held_nano) == (0, PRICE.of(world.prompt_tokens, 5))


def test_an_unreadable_database_shuts_the_gateway(world: World, client: httpx.Client) -> None:
    with world.database.transaction() as connection:
        connection.exec_driver_sql("ALTER TABLE keys RENAME TO gone")
        connection.exec_driver_sql("ALTER TABLE deployments RENAME TO gone_too")
    assert client.post("/v1/generate", json=ASK).status_code == 503
    assert client.get("/readyz").status_code == 503
    assert client.get("/healthz").status_code == 200


def test_many_clients_that_vanish_leave_nothing(
    world: World, client: httpx.Client, echo: Echo
) -> None:
    echo.words, echo.pause_s = 200, 0.01
    body = {**ASK, "max_tokens": 200, "stream": True}

    def vanish(number: int) -> None:
        with client.stream("POST", "/v1/generate", json=body) as response:
            pieces = response.iter_text()
            for _ in range(number % 4):
                next(pieces)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(vanish, range(24)))
    until(lambda: len(world.log()) == 24)
    assert {logged.status for logged in world.log()} == {499}
    assert echo.running == 0
    assert world.account().held_nano == 0
    assert world.account().spent_nano == sum(logged.cost_nano for logged in world.log())
