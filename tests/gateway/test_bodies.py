"""Bodies that do not fit: each is a 4xx problem that names the field, and never a 500."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.gateway.echo import Echo
from tests.gateway.world import PROMPT, World, app_with, build_world, listening

ASK = {"model": "desk", "prompt": PROMPT}
TURN = {"role": "user", "content": PROMPT}

UNFIT: list[tuple[dict[str, Any], str]] = [
    ({**ASK, "max_token": 4}, "max_token: unknown field; did you mean 'max_tokens'?"),
    ({**ASK, "messages": [TURN]}, "body: give either prompt or messages"),
    ({"model": "desk"}, "body: give either prompt or messages"),
    ({"prompt": PROMPT}, "model: field required"),
    ({**ASK, "max_tokens": 0}, "max_tokens: input should be greater than or equal to 1"),
    ({**ASK, "max_tokens": "4"}, "max_tokens: input should be a valid integer"),
    ({**ASK, "max_tokens": 10**30}, "max_tokens: input should be less than or equal to 1000000"),
    ({**ASK, "temperature": -1}, "temperature: input should be greater than or equal to 0"),
    ({**ASK, "temperature": float("nan")}, "temperature: input should be a finite number"),
    ({**ASK, "top_p": 0}, "top_p: input should be greater than 0"),
    ({**ASK, "stream": 1}, "stream: input should be a valid boolean"),
    ({**ASK, "stop": [""]}, "stop.0: string should have at least 1 character"),
    ({**ASK, "prompt": ["a"]}, "prompt: input should be a valid string"),
    ({**ASK, "prompt": "\ud800"}, "prompt: holds half of a surrogate pair"),
    ({**ASK, "model": "\udfff"}, "model: input should be a valid string"),
    ({**ASK, "\ud800": 1}, "body: input should be a valid string"),
    ({**ASK, "user_id": "a\nb"}, "user_id: string should match pattern"),
    ({**ASK, "trace_id": "x" * 1_000_000}, "trace_id: string should match pattern"),
    ({"model": "desk", "messages": []}, "messages: list should have at least 1 item"),
    ({"model": "desk", "messages": [{"role": "tool", "content": ""}]}, "messages.0.role: "),
    ({"model": "desk", "messages": [{**TURN, "name": "x"}]}, "messages.0.name: unknown field"),
]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, base_folder: Path) -> Iterator[World]:
    built = build_world(tmp_path_factory.mktemp("home"), base_folder)
    yield built
    built.database.close()


@pytest.fixture(scope="module")
def client(world: World) -> Iterator[httpx.Client]:
    """One gateway for all: nothing here changes it."""
    with listening(app_with(world, Echo()), world.key.key) as speaking:
        yield speaking


@pytest.mark.parametrize(("body", "detail"), UNFIT)
def test_an_unfit_field_is_named(client: httpx.Client, body: dict[str, Any], detail: str) -> None:
    content = json.dumps(body).encode()
    answer = client.post(
        "/v1/generate", content=content, headers={"Content-Type": "application/json"}
    )
    assert answer.status_code == 422
    problem = answer.json()
    assert answer.headers["content-type"] == "application/problem+json"
    assert problem["detail"].startswith(detail)
    assert problem["code"] == "invalid_request"
    assert problem["status"] == 422
    assert not problem["retryable"]


@pytest.mark.parametrize(
    ("content", "status", "detail"),
    [
        (b'{"model": "desk", "prompt": "\xff"}', 400, "body: not UTF-8 at byte 29"),
        (b"[" * 200_000, 400, "body: nested too deeply"),
        (b'{"model": "desk"', 422, "body: not JSON at character 16"),
        (
            b'{"model": "desk", "prompt": "x", "top_k": ' + b"9" * 5000 + b"}",
            400,
            "body: cannot be read",
        ),
        (b"", 422, "body: field required"),
        (b"[]", 422, "body: not an object"),
        (b"null", 422, "body: not an object"),
    ],
)
def test_what_is_not_json_is_refused(
    client: httpx.Client, content: bytes, status: int, detail: str
) -> None:
    answer = client.post(
        "/v1/generate", content=content, headers={"Content-Type": "application/json"}
    )
    assert answer.status_code == status
    assert answer.json()["detail"].startswith(detail)


@pytest.mark.parametrize("content_type", ["text/plain", "", "application/x-www-form-urlencoded"])
def test_another_content_type_is_refused(client: httpx.Client, content_type: str) -> None:
    body = json.dumps(ASK).encode()
    answer = client.post("/v1/generate", content=body, headers={"Content-Type": content_type})
    assert answer.status_code == 422
    assert "send the header Content-Type: application/json" in answer.json()["detail"]


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("GET", "/v1/generate", 405), ("POST", "/v1/nothing", 404), ("GET", "/v1/models/", 404)],
)
def test_unknown_ways_in_are_problems(
    client: httpx.Client, method: str, path: str, status: int
) -> None:
    answer = client.request(method, path)
    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/problem+json"


@pytest.mark.parametrize("model", ["nobody", "deadbeef", "0" * 64, "de%s\\k", "💥" * 30, "; --"])
@pytest.mark.parametrize("path", ["/v1/generate", "/v1/score"])
def test_an_unknown_model_is_not_found(client: httpx.Client, path: str, model: str) -> None:
    more = {"completions": ["yes"]} if path == "/v1/score" else {}
    answer = client.post(path, json={**ASK, **more, "model": model})
    assert (answer.status_code, answer.json()["code"]) == (404, "model_not_found")


def test_an_unknown_name_hears_the_known_ones(client: httpx.Client) -> None:
    answer = client.post("/v1/generate", json={**ASK, "model": "dseks"})
    assert answer.json()["detail"] == "model: no deployment 'dseks' - known here: desk"


def test_a_version_that_was_never_verified_does_not_answer(
    client: httpx.Client, world: World
) -> None:
    answer = client.post("/v1/generate", json={**ASK, "model": world.unverified.hash})
    assert (answer.status_code, answer.json()["code"]) == (409, "not_verified")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=4,
)
FIELDS = st.sampled_from(
    ["model", "prompt", "messages", "max_tokens", "temperature", "stop", "stream", "seed", "other"]
)


@given(st.dictionaries(FIELDS, JSON, max_size=3))
@settings(max_examples=40, deadline=None)
def test_no_body_is_a_fault_of_ours(client: httpx.Client, changed: dict[str, Any]) -> None:
    for path in ("/v1/generate", "/v1/score"):
        content = json.dumps({**ASK, "completions": ["yes"], **changed}).encode()
        answer = client.post(path, content=content, headers={"Content-Type": "application/json"})
        assert answer.status_code < 500, content
