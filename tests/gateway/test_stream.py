"""Server-sent events: their order, signs of life, and clients that stop listening."""

import asyncio
import json
import socket
import threading
from typing import Any

import httpx
import pytest

from tests.gateway.echo import Echo
from tests.gateway.world import PRICE, PROMPT, World, until
from trimtab.errors import EngineUnavailable
from trimtab.gateway.streams import stream
from trimtab.inference import VersionFiles

ASK = {"model": "desk", "prompt": PROMPT, "stream": True}


def events(text: str) -> list[tuple[str, dict[str, Any]]]:
    """(event, data) of a stream, comments left out."""
    found = []
    for block in text.split("\n\n"):
        lines = [line for line in block.split("\n") if line and not line.startswith(":")]
        if lines:
            [event, data] = lines
            found.append((event.removeprefix("event: "), json.loads(data.removeprefix("data: "))))
    return found


def test_tokens_come_one_by_one_and_done_has_the_whole_answer(
    world: World, client: httpx.Client
) -> None:
    response = client.post("/v1/generate", json=ASK)
    assert response.headers["content-type"].startswith("text/event-stream")
    assert response.headers["cache-control"] == "no-cache"
    assert response.headers["x-accel-buffering"] == "no"
    *tokens, (last, done) = events(response.text)
    assert tokens == [("token", {"text": "yes "})] * 5
    assert last == "done"
    whole = client.post("/v1/generate", json={**ASK, "stream": False}).json()
    assert done.keys() == whole.keys() | {"ttft_ms"}
    same = {"text", "finish_reason", "usage", "cost_usd", "tier", "model_version", "runtime"}
    assert {name: done[name] for name in same} == {name: whole[name] for name in same}
    logged = world.log()[0]
    assert (logged.id, logged.status, logged.ttft_ms) == (done["id"], 200, done["ttft_ms"])
    assert round(done["cost_usd"] * 1e9) == logged.cost_nano == world.spent_for(logged)
    assert 0 < done["ttft_ms"] <= done["latency_ms"]


def test_several_answers_come_side_by_side_and_done_has_them_all(
    world: World, client: httpx.Client
) -> None:
    *tokens, (last, done) = events(client.post("/v1/generate", json={**ASK, "n": 2}).text)
    for index in range(2):
        assert [each for _, each in tokens if each["index"] == index] == [
            {"text": "yes ", "index": index}
        ] * 5
    assert (last, [one["text"] for one in done["choices"]]) == ("done", ["yes " * 5] * 2)
    assert (done["text"], done["usage"]["completion"]) == ("yes " * 5, 10)
    assert world.account().held_nano == 0
    # What can be taken up again has places in one text.
    kept = client.post("/v1/generate", json={**ASK, "n": 2}, headers={"Idempotency-Key": "a"})
    assert kept.status_code == 422
    assert kept.json()["detail"].startswith("Idempotency-Key: a stream that is kept tells one")


def test_a_refusal_before_the_first_byte_is_a_plain_problem(client: httpx.Client) -> None:
    response = client.post("/v1/generate", json={**ASK, "model": "nobody"})
    assert response.status_code == 404
    assert response.headers["content-type"] == "application/problem+json"


def test_a_silent_stream_shows_signs_of_life(
    client: httpx.Client, echo: Echo, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream, "HEARTBEAT_S", 0.05)
    echo.pause_s, echo.words = 0.3, 1
    text = client.post("/v1/generate", json=ASK).text
    before, _ = text.split("event: token")
    assert before.count(": still working\n\n") >= 2
    assert [event for event, _ in events(text)] == ["token", "done"]


@pytest.mark.parametrize("path", ["/v1/generate", "/v1/chat/completions", "resumable"])
def test_a_version_that_loads_shows_signs_of_life(
    world: World, client: httpx.Client, echo: Echo, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    """From admission on: the version is loaded for longer than a heartbeat."""
    monkeypatch.setattr(stream, "HEARTBEAT_S", 0.05)
    loading = slowly_loaded(monkeypatch, echo)
    headers = {"Idempotency-Key": "a"} if path == "resumable" else {}
    body: dict[str, Any] = {"model": "desk", "stream": True, "max_tokens": 2}
    if path == "/v1/chat/completions":
        body["messages"] = [{"role": "user", "content": PROMPT}]
    else:
        path, body["prompt"] = "/v1/generate", PROMPT
    with client.stream("POST", path, json=body, headers=headers) as response:
        assert response.status_code == 200
        pieces = response.iter_text()
        assert next(pieces).startswith(": still working")
        loading.set()
        text = "".join(pieces)
    assert text.count("yes ") >= 2
    [logged] = world.log()
    assert (logged.status, logged.cost_nano) == (200, PRICE.of(world.prompt_tokens, 2))
    assert logged.cost_nano == world.account().spent_nano


@pytest.mark.parametrize("ends", ["refused", "too late", "gone"])
def test_a_version_that_does_not_load_is_an_error_in_a_stream_that_began(
    world: World, client: httpx.Client, echo: Echo, monkeypatch: pytest.MonkeyPatch, ends: str
) -> None:
    monkeypatch.setattr(stream, "HEARTBEAT_S", 0.05)
    monkeypatch.setattr(stream, "DEADLINE_S", 0.4 if ends == "too late" else 30)
    loading = slowly_loaded(monkeypatch, echo, fails=ends == "refused")
    with client.stream("POST", "/v1/generate", json=ASK) as response:
        pieces = response.iter_text()
        next(pieces)
        if ends == "refused":
            loading.set()
        text = "" if ends == "gone" else "".join(pieces)
    codes = {"refused": "engine_unavailable", "too late": "deadline_exceeded"}
    if ends != "gone":
        [(event, problem)] = events(text)
        assert (event, problem["code"]) == ("error", codes[ends])
    until(lambda: len(world.log()) == 1)
    [logged] = world.log()
    assert logged.error_code == codes.get(ends, "client_gone")
    assert (world.account().spent_nano, world.account().held_nano) == (0, 0)
    loading.set()


def slowly_loaded(
    monkeypatch: pytest.MonkeyPatch, echo: Echo, *, fails: bool = False
) -> threading.Event:
    """The engine loads nothing until the event is set; then it does, or `fails`."""
    may, load = threading.Event(), echo.load

    async def slow(files: VersionFiles) -> None:
        while not may.is_set():
            await asyncio.sleep(0.01)
        if fails:
            raise EngineUnavailable("gone")
        await load(files)

    monkeypatch.setattr(echo, "load", slow)
    return may


def test_an_engine_that_dies_in_the_middle_is_an_error_event(
    world: World, client: httpx.Client, echo: Echo
) -> None:
    echo.die_after = 2
    response = client.post("/v1/generate", json={**ASK, "trace_id": "t-1"})
    assert response.status_code == 200
    *tokens, (last, problem) = events(response.text)
    assert len(tokens) == 2
    assert (last, problem["code"], problem["status"]) == ("error", "engine_unavailable", 503)
    assert (problem["trace_id"], problem["retryable"]) == ("t-1", True)
    assert "/run" not in problem["detail"]
    [logged] = world.log()
    assert (logged.status, logged.error_code) == (503, "engine_unavailable")
    assert logged.cost_nano == PRICE.of(world.prompt_tokens, 2) == world.spent_for(logged)
    assert world.account().held_nano == 0


@pytest.mark.parametrize("streamed", [True, False])
def test_an_engine_that_dies_before_the_first_token_costs_nothing(
    world: World, client: httpx.Client, echo: Echo, streamed: bool
) -> None:
    echo.die_after = 0
    response = client.post("/v1/generate", json={**ASK, "stream": streamed})
    # Nothing was sent yet: a stream's status says it as well.
    assert response.status_code == 503
    assert response.headers["content-type"] == "application/problem+json"
    assert (world.account().spent_nano, world.account().held_nano) == (0, 0)
    assert [(logged.status, logged.cost_nano) for logged in world.log()] == [(503, 0)]


def test_an_engine_that_dies_without_a_stream_is_retryable(
    world: World, client: httpx.Client, echo: Echo
) -> None:
    echo.die_after = 3
    response = client.post("/v1/generate", json={**ASK, "stream": False})
    assert (response.status_code, response.json()["retryable"]) == (503, True)
    assert response.headers["retry-after"] == "1"
    assert world.account().spent_nano == PRICE.of(world.prompt_tokens, 3)


@pytest.mark.parametrize("streamed", [True, False])
def test_a_client_that_vanishes_cancels_the_work_and_pays_what_was_generated(
    world: World, client: httpx.Client, echo: Echo, streamed: bool
) -> None:
    echo.words, echo.pause_s = 50, 0.05
    body = {**ASK, "stream": streamed, "max_tokens": 50}
    if streamed:
        with client.stream("POST", "/v1/generate", json=body) as response:
            next(response.iter_text())
    else:
        with pytest.raises(httpx.ReadTimeout):
            client.post("/v1/generate", json=body, timeout=0.4)
    until(lambda: len(world.log()) == 1)
    [logged] = world.log()
    assert echo.running == 0
    assert (logged.status, logged.error_code, logged.finish_reason) == (
        *(499, "client_gone"),
        "cancelled",
    )
    assert 0 < logged.completion_tokens < 50
    cost = PRICE.of(world.prompt_tokens, logged.completion_tokens)
    assert logged.cost_nano == world.spent_for(logged) == world.account().spent_nano == cost
    assert world.account().held_nano == 0


@pytest.mark.parametrize("streamed", [True, False])
def test_work_past_the_deadline_is_cancelled_and_settled(
    world: World,
    client: httpx.Client,
    echo: Echo,
    monkeypatch: pytest.MonkeyPatch,
    streamed: bool,
) -> None:
    monkeypatch.setattr(stream, "DEADLINE_S", 0.3)
    echo.words, echo.pause_s = 50, 0.05
    response = client.post("/v1/generate", json={**ASK, "stream": streamed, "max_tokens": 50})
    problem = events(response.text)[-1][1] if streamed else response.json()
    assert (problem["status"], problem["code"]) == (504, "deadline_exceeded")
    [logged] = world.log()
    assert (logged.status, echo.running) == (504, 0)
    assert logged.cost_nano == PRICE.of(world.prompt_tokens, logged.completion_tokens) > 0
    assert world.account().held_nano == 0


def test_a_client_that_stops_reading_is_given_up(
    world: World, client: httpx.Client, echo: Echo, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream, "PATIENCE_S", 0.3)
    echo.word, echo.words = "x" * 1_000_000, 40
    body = json.dumps({**ASK, "max_tokens": 40}).encode()
    head = (
        f"POST /v1/generate HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {world.key.key}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    with socket.create_connection((client.base_url.host, client.base_url.port or 0)) as silent:
        silent.sendall(head.encode() + body)
        until(lambda: len(world.log()) == 1)
    [logged] = world.log()
    assert (logged.status, logged.error_code, echo.running) == (499, "client_gone", 0)
    assert 0 < logged.completion_tokens < 40
    assert world.account().held_nano == 0
