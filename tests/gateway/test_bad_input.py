"""Input that is wrong in many ways: a 4xx each, and the field by its name."""

import socket
from typing import Any

import httpx
import pytest

from tests.gateway.echo import Echo
from tests.gateway.world import PROMPT, World

ASK = {"model": "desk", "prompt": PROMPT}
JSON = {"Content-Type": "application/json"}
MEGABYTE = "x" * 1_000_000
DEEP = b'{"model": "desk", "prompt": ' + b"[" * 50_000 + b"]" * 50_000 + b"}"

# (what is sent, status, what the detail begins with)
BODIES: dict[str, tuple[Any, int, str]] = {
    "no body": (b"", 422, "body: "),
    "no JSON": (b"{", 422, "body: not JSON at character"),
    "a list": (b"[]", 422, "body: "),
    "deep": (DEEP, 400, "body: nested too deeply"),
    "not UTF-8": (b'{"model": "\xff\xfe"}', 400, "body: not UTF-8 at byte"),
    "NUL": (b'{"model": "de\\u0000sk", "prompt": "x"}', 422, "model: "),
    "half a surrogate": (rb'{"model": "desk", "prompt": "\ud800"}', 422, "prompt: "),
    "unknown field": ({**ASK, "temprature": 1}, 422, "temprature: unknown field; did you mean"),
    "a number as text": ({**ASK, "max_tokens": "5"}, 422, "max_tokens: "),
    "a fraction": ({**ASK, "max_tokens": 1.5}, 422, "max_tokens: "),
    "truth": ({**ASK, "max_tokens": True}, 422, "max_tokens: "),
    "nothing": ({**ASK, "stream": None}, 422, "stream: "),
    "absurdly many": ({**ASK, "max_tokens": 10**30}, 422, "max_tokens: "),
    "negative": ({**ASK, "temperature": -1}, 422, "temperature: "),
    "not a number": (b'{"model": "desk", "prompt": "x", "temperature": NaN}', 422, "temperature: "),
    "NaN in a schema": (
        b'{"model": "desk", "prompt": "x", "json_schema": {"const": NaN}}',
        422,
        "json_schema: ",
    ),
    "infinite": (b'{"model": "desk", "prompt": "x", "top_p": 1e999}', 422, "top_p: "),
    "unknown model": ({**ASK, "model": "nobody"}, 404, "model: no deployment 'nobody'"),
    "a path": ({**ASK, "model": "../../etc/passwd"}, 404, "model: "),
    "a URL": ({**ASK, "model": "http://169.254.169.254/"}, 404, "model: "),
    "an id of a megabyte": ({**ASK, "trace_id": MEGABYTE}, 422, "trace_id: "),
    "a session of a megabyte": ({**ASK, "session_id": MEGABYTE}, 422, "session_id: "),
    "a user of a megabyte": ({**ASK, "user_id": MEGABYTE}, 422, "user_id: "),
    "a model of a megabyte": ({**ASK, "model": MEGABYTE}, 422, "model: "),
    "a header in an id": ({**ASK, "trace_id": "a\r\nSet-Cookie: b"}, 422, "trace_id: "),
    "too many stops": ({**ASK, "stop": ["a"] * 9}, 422, "stop: "),
    "an empty stop": ({**ASK, "stop": [""]}, 422, "stop.0: "),
    "a role": ({"model": "desk", "messages": [{"role": "root"}]}, 422, "messages.0."),
    "both": ({**ASK, "messages": [{"role": "user", "content": "x"}]}, 422, "body: give either"),
}


@pytest.mark.parametrize("name", BODIES)
def test_a_body_that_is_wrong_is_told_what_is_wrong(
    world: World, client: httpx.Client, echo: Echo, name: str
) -> None:
    sent, status, begins = BODIES[name]
    if isinstance(sent, bytes):
        answer = client.post("/v1/generate", content=sent, headers=JSON)
    else:
        answer = client.post("/v1/generate", json=sent)
    problem = answer.json()
    assert answer.headers["content-type"] == "application/problem+json"
    assert (answer.status_code, problem["status"]) == (status, status), problem
    assert problem["detail"].startswith(begins), problem
    assert len(answer.content) < 2000
    assert not echo.asked
    assert (world.account().spent_nano, world.account().held_nano) == (0, 0)


def test_a_user_with_a_control_character_is_refused(client: httpx.Client, echo: Echo) -> None:
    for route, more in (
        ("chat/completions", {"messages": [{"role": "user", "content": "x"}], "stream": True}),
        ("completions", {"prompt": "x"}),
        ("embeddings", {"input": "x"}),
    ):
        answer = client.post(f"/v1/{route}", json={"model": "desk", "user": "a\x00", **more})
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, "user")
    assert not echo.asked


HEADERS: list[tuple[dict[str, str], int, str]] = [
    ({"Idempotency-Key": MEGABYTE[:60_000]}, 400, "Idempotency-Key"),
    ({"Idempotency-Key": ""}, 400, "Idempotency-Key"),
    ({"Idempotency-Key": "a", "Last-Event-ID": "-1"}, 400, "Last-Event-ID"),
    ({"Idempotency-Key": "a", "Last-Event-ID": "9" * 5000}, 400, "Last-Event-ID"),
    ({"Content-Type": "text/plain"}, 422, "body"),
]


@pytest.mark.parametrize(("headers", "status", "field"), HEADERS)
def test_a_header_that_is_wrong_is_named(
    client: httpx.Client, headers: dict[str, str], status: int, field: str
) -> None:
    answer = client.post("/v1/generate", json=ASK, headers=headers)
    assert answer.status_code == status, answer.text
    assert field in answer.text


@pytest.mark.parametrize(
    "head",
    [
        b"GET /healthz HTTP/1.1\r\nHost: x\r\ntraceparent: a\r\n b\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\nHost: x\r\nX: \x00\r\n\r\n",
        b"GET /healthz HTTP/9.9\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"POST /v1/generate HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n",
        b"POST /v1/generate HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"GET /%00%ff/../v1/models HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /" + b"a" * 70_000 + b" HTTP/1.1\r\n\r\n",
    ],
)
def test_what_is_hardly_http_breaks_nothing(client: httpx.Client, head: bytes) -> None:
    address = (client.base_url.host, client.base_url.port or 0)
    with socket.create_connection(address, timeout=10) as raw:
        raw.sendall(head)
        raw.shutdown(socket.SHUT_WR)
        answer = b"".join(iter(lambda: raw.recv(65536), b""))
    assert not answer or answer.split(b" ")[1][:1] in (b"2", b"4"), answer
    assert client.get("/healthz").status_code == 200


def test_nothing_of_a_request_becomes_a_header(client: httpx.Client) -> None:
    trace = {"traceparent": f"00-{'a' * 32}-{'b' * 16}-01-Set-Cookie: z"}
    answer = client.post("/v1/generate", json={**ASK, "model": "x\r\nSet-Cookie: y"}, headers=trace)
    assert answer.status_code == 422
    assert "set-cookie" not in answer.headers
