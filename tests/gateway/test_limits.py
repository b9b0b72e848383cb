"""Rate limits over HTTP: what is refused, what is told, and what comes back."""

import re
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from tests.gateway.echo import Echo
from tests.gateway.world import PRICE, PROMPT, World, app_with, listening
from trimtab.gateway import keys
from trimtab.gateway.keys import Created, Limits

ASK = {"model": "desk", "prompt": PROMPT, "max_tokens": 5}


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The database's time for tills and meters, standing still but for what a test adds."""
    now = [2 * 10**15]
    monkeypatch.setattr("trimtab.ledger.till.database_now", lambda connection: now[0])
    return now


def limited(world: World, limits: Limits, limit_usd: str | None = None) -> Created:
    with world.database.transaction() as connection:
        return keys.create(connection, "limited", "somebody", limit_usd, limits=limits)


def test_requests_above_the_limit_wait(
    world: World, echo: Echo, client: httpx.Client, clock: list[int]
) -> None:
    key = limited(world, Limits(requests_per_minute=3))
    headers = {"Authorization": f"Bearer {key.key}"}
    answers = [client.post("/v1/generate", json=ASK, headers=headers) for _ in range(4)]
    assert [answer.status_code for answer in answers] == [200, 200, 200, 429]
    assert [answer.headers["ratelimit"] for answer in answers] == [
        '"requests";r=2;t=20',
        '"requests";r=1;t=40',
        '"requests";r=0;t=60',
        '"requests";r=0;t=60',
    ]
    assert {answer.headers["ratelimit-policy"] for answer in answers} == {'"requests";q=3;w=60'}
    refused = answers[-1]
    assert (refused.json()["code"], refused.json()["retryable"]) == ("rate_limited", True)
    assert refused.headers["retry-after"] == "20"
    assert world.account(key).held_nano == 0
    assert len(echo.asked) == 3
    clock[0] += 19_999_999
    assert client.post("/v1/generate", json=ASK, headers=headers).status_code == 429
    clock[0] += 1
    assert client.post("/v1/generate", json=ASK, headers=headers).status_code == 200
    assert client.get("/v1/models", headers=headers).status_code == 200
    assert [logged.error_code for logged in world.log()].count("rate_limited") == 2


def test_tokens_that_were_not_used_come_back(
    world: World, echo: Echo, client: httpx.Client, clock: list[int]
) -> None:
    used = world.prompt_tokens + 5
    key = limited(world, Limits(tokens_per_minute=2 * used + 40))
    headers = {"Authorization": f"Bearer {key.key}"}
    big = {**ASK, "max_tokens": 40}
    first = client.post("/v1/generate", json=big, headers=headers)
    assert first.headers["ratelimit"].startswith(f'"tokens";r={used + 5};')
    second = client.post("/v1/generate", json=big, headers=headers)
    third = client.post("/v1/generate", json=big, headers=headers)
    assert [first.status_code, second.status_code, third.status_code] == [200, 200, 429]
    over = {**ASK, "max_tokens": 200}
    never = client.post("/v1/generate", json=over, headers=headers)
    assert (never.status_code, never.json()["retryable"]) == (429, False)
    assert "retry-after" not in never.headers
    assert re.search(r"\d+ tokens are above", never.json()["detail"])


def test_what_a_budget_refuses_uses_up_no_limit(
    world: World, client: httpx.Client, clock: list[int]
) -> None:
    key = limited(world, Limits(requests_per_minute=2, tokens_per_minute=10_000), "0.000000001")
    headers = {"Authorization": f"Bearer {key.key}"}
    for _ in range(4):
        assert client.post("/v1/generate", json=ASK, headers=headers).status_code == 402


def test_what_a_budget_refuses_leaves_a_dry_run_as_it_was(
    world: World, client: httpx.Client, clock: list[int]
) -> None:
    """The bucket counts on past its brim in a dry run, and what came to nothing is not counted."""
    limits = Limits(requests_per_minute=10, tokens_per_minute=world.prompt_tokens + 6, dry_run=True)
    key = limited(world, limits, f"{PRICE.of(world.prompt_tokens, 5) / 1e9:.9f}")
    headers = {"Authorization": f"Bearer {key.key}"}
    assert client.post("/v1/generate", json=ASK, headers=headers).status_code == 200
    with world.database.read() as connection:
        before = connection.exec_driver_sql("SELECT * FROM meters ORDER BY kind").fetchall()
    assert client.post("/v1/generate", json=ASK, headers=headers).status_code == 402
    with world.database.read() as connection:
        after = connection.exec_driver_sql("SELECT * FROM meters ORDER BY kind").fetchall()
    assert after == before


def test_a_dry_run_tells_what_it_would_refuse(
    world: World, client: httpx.Client, clock: list[int]
) -> None:
    key = limited(world, Limits(requests_per_minute=2, dry_run=True))
    headers = {"Authorization": f"Bearer {key.key}"}
    answers = [client.post("/v1/generate", json=ASK, headers=headers) for _ in range(4)]
    assert [answer.status_code for answer in answers] == [200] * 4
    told = [answer.headers.get("trimtab-would-refuse") for answer in answers]
    assert told == [None, None, "requests", "requests"]


def test_clients_at_once_get_the_limit_and_no_more(
    world: World, echo: Echo, clock: list[int]
) -> None:
    key = limited(world, Limits(requests_per_minute=7))
    with listening(app_with(world, echo), key.key) as client, ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: client.post("/v1/generate", json=ASK), range(24)))
    assert sorted(answer.status_code for answer in answers) == [200] * 7 + [429] * 17
    assert world.account(key).spent_nano == 7 * PRICE.of(world.prompt_tokens, 5)


def test_what_holds_no_price_counts_as_any_request(
    world: World, client: httpx.Client, clock: list[int]
) -> None:
    key = limited(world, Limits(requests_per_minute=2))
    headers = {"Authorization": f"Bearer {key.key}"}
    unknown = {**ASK, "model": "nobody"}
    answers = [client.post("/v1/generate", json=unknown, headers=headers) for _ in range(4)]
    assert [answer.status_code for answer in answers] == [404, 404, 429, 429]
    assert answers[0].headers["ratelimit"] == '"requests";r=1;t=30'
    assert answers[2].headers["retry-after"] == "30"
    assert client.post("/v1/generate", json=ASK, headers=headers).status_code == 429
    # A row for each that was let in, and for what asked for a price.
    codes = [logged.error_code for logged in world.log()]
    assert codes == ["model_not_found", "model_not_found", "rate_limited"]
