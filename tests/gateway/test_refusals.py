"""What is refused before a price could be held is in the log, the metrics and the spans too."""

import json
from collections.abc import Callable, Sequence

import httpx
import pytest
from websockets.sync.client import connect

from tests.gateway.echo import Echo
from tests.gateway.world import PROMPT, World, app_with, listening, until
from trimtab.errors import StorageFull
from trimtab.gateway import keys
from trimtab.gateway.keys import Limits
from trimtab.gateway.telemetry import refusals
from trimtab.journal.requests import Answered
from trimtab.store.database import Connection

ASK = {"model": "desk", "prompt": PROMPT}
CANARY = "canary-5a1f"


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(refusals, "GATHER_S", 0.0)


def logged(world: World, echo: Echo, ask: Callable[[httpx.Client], object]) -> list[Answered]:
    """What stands in the log after the gateway has ended."""
    with listening(app_with(world, echo), world.key.key, works=True) as client:
        ask(client)
    return world.log()


def test_every_refusal_is_a_line_of_the_log(world: World, echo: Echo) -> None:
    with world.database.transaction() as connection:
        narrow = keys.create(connection, "narrow", "somebody", scopes=["score"])
    theirs = {"Authorization": f"Bearer {narrow.key}"}
    wrong = {"Authorization": f"Bearer tt_00000000_{CANARY}"}
    trace = {"traceparent": f"00-{'a' * 32}-{'b' * 16}-01"}
    chat = {"model": "desk", "messages": []}

    def ask(client: httpx.Client) -> None:
        client.post("/v1/generate", json=ASK, headers=wrong)
        client.post("/v1/generate", json=ASK, headers={"Authorization": ""})
        client.post("/v1/generate", json=ASK, headers=theirs)
        client.post("/v1/generate", json={"model": "desk", CANARY: 1}, headers=trace)
        client.post("/v1/generate", json={**ASK, "prompt": "x" * (2 << 20)})
        client.post("/v1/generate", content=b"{" + CANARY.encode())
        client.post("/v1/chat/completions", json=chat)
        client.get("/v1/files/file-1")
        client.get(f"/{CANARY}")
        client.post(
            "/v1/generate", json={**ASK, "user_id": "u"}, headers={"Idempotency-Key": "a b"}
        )
        client.get("/readyz", headers=wrong)

    found = logged(world, echo, ask)
    assert [(each.route, each.status, each.error_code) for each in found] == [
        ("generate", 401, "wrong_key"),
        ("generate", 401, "no_key"),
        ("generate", 403, "wrong_scope"),
        ("generate", 422, "invalid_request"),
        ("generate", 413, "body_too_large"),
        ("generate", 422, "invalid_request"),
        ("chat.completions", 422, "invalid_request"),
        ("files", 404, "file_not_found"),
        ("unknown", 404, "not_found"),
        ("generate", 400, "invalid_request"),
    ]
    mine = world.key.id
    assert [each.key_id for each in found] == [None, None, narrow.id, *[mine] * 7]
    assert [each.user_id for each in found] == [*[None] * 9, "u"]
    assert found[3].trace_id == "a" * 32
    assert all(each.cost_nano == each.attempts == 0 and each.latency_ms > 0 for each in found)
    assert world.account().spent_nano == 0
    assert CANARY not in repr(found)


def test_what_the_books_told_is_told_once(world: World, echo: Echo) -> None:
    echo.die_after = 0

    def ask(client: httpx.Client) -> None:
        client.post("/v1/generate", json={**ASK, "model": "nobody's"})
        client.post("/v1/generate", json=ASK)
        client.post("/v1/score", json={**ASK, "completions": ["a"]})

    found = logged(world, echo, ask)
    assert [each.status for each in found] == [404, 503, 503]


def test_a_limit_that_is_used_up_while_the_books_close_is_told_by_the_door(
    world: World, echo: Echo
) -> None:
    with world.database.transaction() as connection:
        limits = Limits(requests_per_minute=1)
        key = keys.create(connection, "limited", "somebody", limits=limits)
        ops = keys.create(connection, "ops", "ops", scopes=["metrics"])
    metrics = ""

    def ask(client: httpx.Client) -> None:
        nonlocal metrics
        for _ in range(3):
            theirs = {"Authorization": f"Bearer {key.key}"}
            client.post("/v1/generate", json={**ASK, "model": "nobody's"}, headers=theirs)
        metrics = client.get("/metrics", headers={"Authorization": f"Bearer {ops.key}"}).text

    found = logged(world, echo, ask)
    assert [each.error_code for each in found] == ["model_not_found", *["rate_limited"] * 2]
    assert {each.key_id for each in found} == {key.id}
    assert len({each.id for each in found}) == 3
    [refused] = [line for line in metrics.splitlines() if 'dry_run="false"' in line]
    assert refused.endswith(" 2")


def test_a_frame_that_does_not_fit_is_a_line_too(world: World, echo: Echo) -> None:
    def ask(client: httpx.Client) -> None:
        address = str(client.base_url).replace("http", "ws")
        bearer = {"Authorization": f"Bearer {world.key.key}"}
        with connect(f"{address}/v1/stream", additional_headers=bearer) as socket:
            for frame in ({"model": "desk"}, ASK):
                socket.send(json.dumps(frame))
                while json.loads(socket.recv(timeout=10))["event"] == "token":
                    pass

    found = logged(world, echo, ask)
    assert [(each.route, each.status) for each in found] == [("stream", 422), ("stream", 200)]


def test_a_flood_is_counted_and_not_written(
    world: World, echo: Echo, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(refusals, "BURST", 3)
    monkeypatch.setattr(refusals, "A_SECOND", 0)
    with world.database.transaction() as connection:
        ops = keys.create(connection, "ops", "ops", scopes=["metrics"])
    metrics = ""

    def ask(client: httpx.Client) -> None:
        nonlocal metrics
        for _ in range(8):
            client.post("/v1/generate", json=ASK, headers={"Authorization": "Bearer x"})
        metrics = client.get("/metrics", headers={"Authorization": f"Bearer {ops.key}"}).text

    assert len(logged(world, echo, ask)) == 3
    [counted] = [line for line in metrics.splitlines() if 'code="wrong_key"' in line]
    assert counted.endswith(" 8")
    [left_out] = [
        line for line in metrics.splitlines() if "trimtab_refusals_unlogged_total{" in line
    ]
    assert left_out.endswith(" 5")


def test_a_log_that_cannot_be_written_refuses_as_ever(
    world: World, echo: Echo, monkeypatch: pytest.MonkeyPatch
) -> None:
    written, full, failed = refusals.requests.record_all, True, 0

    def record_all(connection: Connection, answered: Sequence[Answered]) -> None:
        nonlocal failed
        if full:
            failed += 1
            raise StorageFull("no room")
        written(connection, answered)

    monkeypatch.setattr(refusals.requests, "record_all", record_all)

    def ask(client: httpx.Client) -> None:
        nonlocal full
        assert client.post("/v1/generate", json={}).status_code == 422
        until(lambda: failed == 1)
        full = False
        assert client.get("/nowhere").status_code == 404

    assert [each.status for each in logged(world, echo, ask)] == [404]
