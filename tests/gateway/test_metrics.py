import re

import httpx
import pytest

from tests.gateway.echo import Echo
from tests.gateway.world import PROMPT, World
from trimtab.errors import StoreError
from trimtab.gateway import keys
from trimtab.gateway.offline import batches
from trimtab.store.database import Connection

ASK = {"model": "desk", "prompt": PROMPT, "max_tokens": 5}
LINE = re.compile(r'([a-z_:][a-zA-Z0-9_:]*)\{((?:[a-z_]+="(?:[^"\\]|\\.)*",?)+)\} (\S+)')


def scraped(world: World, client: httpx.Client) -> dict[str, float]:
    with world.database.transaction() as connection:
        key = keys.create(connection, "prometheus", "ops", scopes=["metrics"])
    answer = client.get("/metrics", headers={"Authorization": f"Bearer {key.key}"})
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    found = {}
    for line in answer.text.splitlines():
        if not line.startswith("#"):
            match = LINE.fullmatch(line)
            assert match, line
            labels = re.sub(r'gateway="\d+",?', "", match[2])
            found[f"{match[1]}{{{labels}}}"] = float(match[3])
    return found


def test_what_happened_is_counted(world: World, client: httpx.Client, echo: Echo) -> None:
    client.post("/v1/generate", json={**ASK, "stream": True})
    client.post("/v1/generate", json={**ASK, "model": 'no"body\\'})
    found = scraped(world, client)
    who = 'route="generate",tier="adapter",model="desk"'
    assert found[f'trimtab_requests_total{{{who},status="200",code=""}}'] == 1
    lost = 'route="generate",tier="",model="",status="404",code="model_not_found"'
    assert found[f"trimtab_requests_total{{{lost}}}"] == 1
    spent = world.account().spent_nano
    assert found[f"trimtab_cost_nano_dollars_total{{{who}}}"] == spent > 0
    who += ',gen_ai_operation_name="chat",gen_ai_provider_name="trimtab"'
    tokens = "gen_ai_client_token_usage_sum"
    assert found[f'{tokens}{{{who},gen_ai_token_type="input"}}'] == world.prompt_tokens
    assert found[f'{tokens}{{{who},gen_ai_token_type="output"}}'] == 5
    for name in (
        "gen_ai_server_request_duration_seconds",
        "gen_ai_server_time_to_first_token_seconds",
    ):
        buckets = [v for key, v in found.items() if key.startswith(f"{name}_bucket{{{who}")]
        assert buckets == sorted(buckets)
        assert buckets[-1] == found[f"{name}_count{{{who}}}"] == 1
        assert found[f"{name}_sum{{{who}}}"] > 0
    assert found["trimtab_requests_in_flight{}"] == 0
    assert found[f'trimtab_breaker_open{{tier="adapter",version="{world.adapter.hash[:12]}"}}'] == 0


def test_no_words_and_no_secrets_are_in_it(world: World, client: httpx.Client) -> None:
    client.post("/v1/generate", json={**ASK, "prompt": "my-secret-prompt", "user_id": "u-1"})
    with world.database.transaction() as connection:
        key = keys.create(connection, "prometheus", "ops", scopes=["metrics"])
    text = client.get("/metrics", headers={"Authorization": f"Bearer {key.key}"}).text
    for secret in ("my-secret-prompt", "u-1", world.key.id, world.key.key):
        assert secret not in text


def test_without_its_database_a_gateway_tells_what_it_counted_itself(
    world: World, client: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unreadable(connection: Connection) -> dict[str, int]:
        raise StoreError("the disk is gone")

    monkeypatch.setattr(batches, "counts", unreadable)
    client.post("/v1/generate", json=ASK)
    found = scraped(world, client)
    assert any(name.startswith("trimtab_requests_total") for name in found)
    assert not any(name.startswith("trimtab_batches") for name in found)
