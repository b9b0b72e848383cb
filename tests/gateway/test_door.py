"""Who comes in: every route of the document, with and without a key."""

import json

import httpx
import pytest

from tests.gateway.echo import Echo
from tests.gateway.offline_world import jsonl, request, started, upload
from tests.gateway.world import PROMPT, World, app_with, listening
from trimtab.gateway import keys
from trimtab.gateway.entrance.door import scope_of
from trimtab.gateway.keys import SCOPES

OPEN = {"/healthz", "/readyz"}
ASK = {"model": "desk", "prompt": PROMPT}
GOOD = jsonl([request("a")])


def routes(world: World, echo: Echo) -> list[tuple[str, str]]:
    document = app_with(world, echo).openapi()["paths"]
    return [(method.upper(), path) for path, methods in document.items() for method in methods]


def test_no_route_is_open_by_accident(world: World, echo: Echo, client: httpx.Client) -> None:
    """Every route of the document: no key, a wrong one, an expired one, one without the scope, and
    a right one."""
    revoked, full = world.new_key(), world.new_key()
    with world.database.transaction() as connection:
        keys.revoke(connection, revoked.id)
        expired = keys.create(connection, "old", "somebody", expires_us=1)
        rotated = keys.create(connection, "turned", "somebody")
        keys.rotate(connection, rotated.id, grace_us=0)
        scoped = {
            scope: keys.create(connection, scope, "somebody", scopes=[scope]) for scope in SCOPES
        }
    shut = [None, "Bearer", "Bearer x", f"Basic {full.key}", f"Bearer {full.key[:-1]}"]
    shut += [f"Bearer {key.key}" for key in (revoked, expired, rotated)]
    asked = {(method, path) for method, path in routes(world, echo) if path not in OPEN}
    assert {path for _, path in asked} >= {"/v1/generate", "/v1/score", "/v1/models"}
    stranger = httpx.Client(base_url=client.base_url)
    for method, path in asked | {("GET", "/openapi.json"), ("GET", "/nowhere")}:
        where = path.replace("{model}", "desk")
        for authorization in shut:
            headers = {} if authorization is None else {"Authorization": authorization}
            answer = stranger.request(method, where, headers=headers, json=ASK)
            assert answer.status_code == 401, (method, path, authorization)
            assert answer.headers["www-authenticate"] == "Bearer"
            assert "key" in answer.text
        needed = scope_of(where)
        assert (needed is None) == (path in ("/openapi.json", "/nowhere")), path
        for scope, key in scoped.items():
            headers = {"Authorization": f"Bearer {key.key}"}
            answer = stranger.request(method, where, headers=headers, json=ASK)
            if needed in (None, scope):
                assert answer.status_code not in (401, 403), (method, path, scope)
            else:
                assert answer.status_code == 403, (method, path, scope)
                assert needed in answer.text
    stranger.close()
    assert world.log()
    known = {scoped["generate"].id, scoped["score"].id}
    assert {answered.key_id for answered in world.log() if answered.attempts} <= known


def test_what_is_anothers_is_nobodys(world: World, echo: Echo, client: httpx.Client) -> None:
    """Every route of the document that names something: to another owner's key it is answered as
    if it were not there, and nothing happens to it."""
    batch = started(client, GOOD)
    mine = {"batch_id": batch, "file_id": upload(client, GOOD).json()["id"]}
    # Models are the home's, and every key may know them.
    named = [(m, p) for m, p in routes(world, echo) if "{" in p and "{model}" not in p]
    assert len(named) >= 5
    with world.database.transaction() as connection:
        key = keys.create(connection, "theirs", "stranger", scopes=SCOPES).key
    with httpx.Client(
        base_url=client.base_url, headers={"Authorization": f"Bearer {key}"}
    ) as stranger:
        for method, path in named:
            told = []
            for ids in (mine, dict.fromkeys(mine, "no_such")):
                answer = stranger.request(method, path.format(**ids))
                assert answer.status_code == 404, (method, path)
                text = answer.text.replace(answer.headers["traceparent"].split("-")[1], "")
                for id in ids.values():
                    text = text.replace(id, "")
                told.append((text, sorted(answer.headers)))
            assert told[0] == told[1], (method, path)
        for kind, id in (("batches", batch), ("files", mine["file_id"])):
            assert stranger.get(f"/v1/{kind}").json()["data"] == []
            assert stranger.get(f"/v1/{kind}", params={"after": id}).status_code == 404
        body = {"input_file_id": mine["file_id"], "endpoint": "/v1/generate"}
        body["completion_window"] = "24h"
        assert stranger.post("/v1/batches", json=body).status_code == 404
    assert client.get(f"/v1/batches/{batch}").json()["status"] == "in_progress"
    assert client.get(f"/v1/files/{mine['file_id']}/content").content == GOOD


def test_a_server_that_stops_lets_nobody_in(world: World, echo: Echo) -> None:
    app = app_with(world, echo)
    with listening(app, world.key.key) as client:
        assert client.post("/v1/generate", json=ASK).status_code == 200
        echo.asked.clear()
        app.state.desk.drain.begun.set()
        answer = client.post("/v1/generate", json=ASK)
        assert (answer.status_code, answer.json()["code"]) == (503, "stopping")
        assert answer.json()["retryable"]
        assert client.get("/healthz").status_code == 200
    assert not echo.asked


def test_health_needs_no_key(client: httpx.Client) -> None:
    with httpx.Client(base_url=client.base_url) as stranger:
        assert stranger.get("/healthz").json() == {"status": "alive"}
        assert stranger.get("/readyz").json() == {"status": "ready"}


def test_a_key_is_shut_from_the_next_request_on(world: World, client: httpx.Client) -> None:
    assert client.get("/v1/models").status_code == 200
    with world.database.transaction() as connection:
        keys.revoke(connection, world.key.id)
    assert client.get("/v1/models").status_code == 401


@pytest.mark.parametrize("path", ["/v1/generate", "/v1/score"])
def test_a_large_body_is_refused(client: httpx.Client, path: str) -> None:
    body = json.dumps({**ASK, "prompt": "x" * (2 << 20)}).encode()
    answer = client.post(path, content=body, headers={"Content-Type": "application/json"})
    assert (answer.status_code, answer.json()["code"]) == (413, "body_too_large")
    assert client.get("/healthz").status_code == 200


def test_a_large_body_in_chunks_is_refused(client: httpx.Client) -> None:
    chunks = (b"x" * 65536 for _ in range(32))
    answer = client.post(
        "/v1/generate", content=chunks, headers={"Content-Type": "application/json"}
    )
    assert (answer.status_code, answer.json()["code"]) == (413, "body_too_large")


def test_the_trace_is_continued(world: World, client: httpx.Client) -> None:
    trace = "4bf92f3577b34da6a3ce929d0e0e4736"
    header = {"traceparent": f"00-{trace}-00f067aa0ba902b7-01"}
    answer = client.post("/v1/generate", json=ASK, headers=header)
    assert answer.json()["trace_id"] == trace == world.log()[-1].trace_id
    assert answer.headers["traceparent"].split("-")[1] == trace
    named = client.post("/v1/generate", json={**ASK, "trace_id": "ticket-7"}, headers=header)
    assert named.json()["trace_id"] == "ticket-7"
    assert named.headers["traceparent"].split("-")[1] == trace
    mapped = client.post("/v1/generate", json={**ASK, "trace_id": "a" * 32})
    assert mapped.headers["traceparent"].split("-")[1] == "a" * 32


def test_refusals_carry_the_trace_too(client: httpx.Client) -> None:
    answer = client.get("/nowhere", headers={"traceparent": f"00-{'d' * 32}-{'e' * 16}-00"})
    assert answer.json()["trace_id"] == "d" * 32
    assert answer.headers["traceparent"].startswith(f"00-{'d' * 32}-")
