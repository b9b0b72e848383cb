"""The WebSocket: its events, its close codes, and clients that go, flood or do not read."""

import asyncio
import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import pytest
from fastapi import FastAPI, WebSocket
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect

from tests.gateway.echo import Echo
from tests.gateway.visiting import Visitors
from tests.gateway.world import PRICE, PROMPT, World, app_with, until
from trimtab.gateway import keys
from trimtab.gateway.drain import Drain
from trimtab.gateway.streams import conversation, stream

ASK = {"model": "desk", "prompt": PROMPT, "max_tokens": 5}


def address(client: httpx.Client) -> str:
    return f"ws://127.0.0.1:{client.base_url.port}/v1/stream"


@contextmanager
def talking(client: httpx.Client, key: str, **options: Any) -> Iterator[ClientConnection]:
    headers = {"Authorization": f"Bearer {key}"}
    with connect(address(client), additional_headers=headers, **options) as socket:
        yield socket


def answer(socket: ClientConnection) -> list[dict[str, Any]]:
    """The events of one answer."""
    events = []
    while not events or events[-1]["event"] == "token":
        events.append(json.loads(socket.recv(timeout=10)))
    return events


def closed(socket: ClientConnection) -> int:
    """The code that the server closes with."""
    frames = iter(lambda: socket.recv(timeout=10), None)
    with pytest.raises(ConnectionClosed) as end:
        list(frames)
    assert end.value.rcvd is not None
    return int(end.value.rcvd.code)


def test_bodies_are_answered_one_after_another(world: World, client: httpx.Client) -> None:
    with talking(client, world.key.key) as socket:
        for _ in range(2):
            socket.send(json.dumps(ASK))
        for _ in range(2):
            *tokens, done = answer(socket)
            assert [token["data"]["text"] for token in tokens] == ["yes "] * 5
            assert (done["event"], done["data"]["text"]) == ("done", "yes " * 5)
            assert done["data"]["tier"] == "adapter"
    logged = world.log()
    assert [(each.route, each.status) for each in logged] == [("stream", 200)] * 2
    assert len({each.trace_id for each in logged}) == 2
    assert world.account().spent_nano == 2 * PRICE.of(world.prompt_tokens, 5)


def test_several_answers_come_side_by_side(world: World, client: httpx.Client) -> None:
    with talking(client, world.key.key) as socket:
        socket.send(json.dumps({**ASK, "n": 2}))
        *tokens, done = answer(socket)
    assert sorted(token["data"]["index"] for token in tokens) == [0] * 5 + [1] * 5
    assert [one["text"] for one in done["data"]["choices"]] == ["yes " * 5] * 2


def test_a_handshake_needs_a_key_with_the_scope(world: World, client: httpx.Client) -> None:
    with world.database.transaction() as connection:
        other = keys.create(connection, "x", "x", scopes=["score"])
        expired = keys.create(connection, "y", "y", expires_us=1)
    for key, status in (("", 401), ("tt_wrong", 401), (expired.key, 401), (other.key, 403)):
        with pytest.raises(InvalidStatus) as refused, talking(client, key):
            pass
        assert refused.value.response.status_code == status
        assert b"key" in (refused.value.response.body or b"")


@pytest.mark.parametrize(
    ("frame", "detail"),
    [
        ("{", "body: not JSON"),
        ("[]", "body: input should be an object"),
        (json.dumps({**ASK, "max_token": 1}), "max_token: unknown field; did you mean"),
        (json.dumps({**ASK, "n": 9}), "n: input should be less than or equal to 8"),
        (json.dumps({**ASK, "model": "nobody"}), "model: no deployment 'nobody'"),
        (b"\xff\x00", "body: not JSON"),
        ("[" * 100_000, "body: not JSON"),
    ],
)
def test_an_unfit_frame_is_told_and_the_next_one_answered(
    world: World, client: httpx.Client, frame: str | bytes, detail: str
) -> None:
    with talking(client, world.key.key) as socket:
        socket.send(frame)
        [error] = answer(socket)
        assert error["event"] == "error"
        assert error["data"]["detail"].startswith(detail)
        assert 400 <= error["data"]["status"] < 500
        socket.send(json.dumps(ASK))
        assert answer(socket)[-1]["event"] == "done"


def test_a_frame_that_is_too_long_ends_it(world: World, client: httpx.Client) -> None:
    with talking(client, world.key.key) as socket:
        socket.send("x" * (20 << 20))
        assert closed(socket) == 1009


def test_a_client_that_goes_cancels_the_work_and_pays_what_was_generated(
    world: World, client: httpx.Client, echo: Echo
) -> None:
    echo.words, echo.pause_s = 200, 0.02
    with talking(client, world.key.key) as socket:
        socket.send(json.dumps({**ASK, "max_tokens": 200}))
        socket.recv(timeout=10)
    until(lambda: len(world.log()) == 1)
    [logged] = world.log()
    assert (logged.status, logged.finish_reason, echo.running) == (499, "cancelled", 0)
    assert logged.cost_nano == PRICE.of(world.prompt_tokens, logged.completion_tokens) > 0
    assert world.account().held_nano == 0


def test_a_flood_ends_it(world: World, client: httpx.Client, echo: Echo) -> None:
    echo.words, echo.pause_s = 200, 0.05
    with talking(client, world.key.key) as socket:
        for _ in range(conversation.WAITING + 3):
            socket.send(json.dumps({**ASK, "max_tokens": 200}))
        assert closed(socket) == 1008
    until(lambda: echo.running == 0)
    assert world.account().held_nano == 0


def test_a_client_that_does_not_read_is_given_up(
    world: World, client: httpx.Client, echo: Echo, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream, "PATIENCE_S", 0.3)
    echo.word, echo.words = "x" * 1_000_000, 60
    # A client that takes one frame, and compresses none, so that the rest has to wait.
    # Nor does it wait for a close that lies behind all of it.
    quiet: dict[str, Any] = {"compression": None, "max_queue": 1, "close_timeout": 0.1}
    with talking(client, world.key.key, max_size=None, **quiet) as socket:
        socket.send(json.dumps({**ASK, "max_tokens": 60}))
        until(lambda: len(world.log()) == 1)
        [logged] = world.log()
        assert (logged.status, echo.running) == (499, 0)
        assert 0 < logged.completion_tokens < 60
        # What was under way comes yet, and then it hears why there is no more.
        assert closed(socket) == conversation.SLOW == 4080
    assert world.account().held_nano == 0


def test_a_key_that_is_revoked_ends_it(world: World, client: httpx.Client) -> None:
    with talking(client, world.key.key) as socket:
        with world.database.transaction() as connection:
            keys.revoke(connection, world.key.id)
        socket.send(json.dumps(ASK))
        assert json.loads(socket.recv(timeout=10))["data"]["code"] == "wrong_key"
        assert closed(socket) == 1008


def test_an_engine_that_dies_is_an_error_event(
    world: World, client: httpx.Client, echo: Echo
) -> None:
    echo.die_after = 2
    with talking(client, world.key.key) as socket:
        socket.send(json.dumps(ASK))
        *tokens, error = answer(socket)
        assert len(tokens) == 2
        assert error["data"]["code"] == "engine_unavailable"


def test_the_deadline_holds(
    world: World, client: httpx.Client, echo: Echo, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream, "DEADLINE_S", 0.3)
    echo.words, echo.pause_s = 50, 0.05
    with talking(client, world.key.key) as socket:
        socket.send(json.dumps({**ASK, "max_tokens": 50}))
        assert answer(socket)[-1]["data"]["code"] == "deadline_exceeded"
    assert [logged.status for logged in world.log()] == [504]


class Line:
    """A client's end of a connection, in memory: what it says, and the messages that it hears."""

    def __init__(self, app: FastAPI, world: World) -> None:
        self._says: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self._says.put_nowait({"type": "websocket.connect"})
        self.heard: list[dict[str, Any]] = []
        scope = {"type": "websocket", "app": app, "state": {"key": Visitors(world).key}}
        self.socket = WebSocket(scope, self._says.get, self._hear)

    def say(self, body: dict[str, Any]) -> None:
        self._says.put_nowait({"type": "websocket.receive", "text": json.dumps(body)})

    @property
    def events(self) -> list[dict[str, Any]]:
        return [json.loads(each["text"]) for each in self.heard if each["type"] == "websocket.send"]

    async def _hear(self, message: Any) -> None:
        self.heard.append(dict(message))


async def eventually(true: Any) -> None:
    async with asyncio.timeout(10):
        while not true():
            await asyncio.sleep(0.01)


def test_what_is_late_when_the_server_goes_is_told_and_ended(world: World, echo: Echo) -> None:
    echo.words, echo.pause_s = 200, 0.02
    app = app_with(world, echo)

    async def go() -> Line:
        line = Line(app, world)
        talking = asyncio.create_task(conversation.talk(line.socket))
        for _ in range(2):
            line.say({**ASK, "max_tokens": 200})
        await eventually(lambda: line.events)
        await app.state.desk.drain.finish(0.05)
        assert talking.done()
        await app.state.desk.books.settled()
        return line

    line = asyncio.run(go())
    assert (line.events[-1]["event"], line.events[-1]["data"]["code"]) == ("error", "stopping")
    assert (line.heard[-1]["type"], line.heard[-1]["code"]) == ("websocket.close", 1001)
    [logged] = world.log()
    assert (logged.status, logged.error_code, echo.running) == (503, "stopping", 0)
    assert (world.account().held_nano, len(echo.asked)) == (0, 1)


def test_a_frame_that_waits_is_not_begun_by_a_server_that_goes(world: World, echo: Echo) -> None:
    echo.words, echo.pause_s = 5, 0.02
    app = app_with(world, echo)

    async def go() -> Line:
        line = Line(app, world)
        talking = asyncio.create_task(conversation.talk(line.socket))
        for _ in range(2):
            line.say(ASK)
        await eventually(lambda: line.events)
        await app.state.desk.drain.finish(10)
        assert talking.done()
        await app.state.desk.books.settled()
        return line

    line = asyncio.run(go())
    assert [each["event"] for each in line.events] == ["token"] * 5 + ["done"]
    assert (line.heard[-1]["type"], line.heard[-1]["code"]) == ("websocket.close", 1001)
    assert len(echo.asked) == 1


def test_work_that_begins_while_a_server_goes_is_waited_for() -> None:
    async def go() -> bool:
        leaving, told = Drain(), asyncio.Event()

        async def second() -> None:
            await asyncio.sleep(0.02)
            told.set()

        async def first() -> None:
            await leaving.begun.wait()
            leaving.keep(asyncio.create_task(second()))

        leaving.keep(asyncio.create_task(first()))
        await leaving.finish(10)
        return told.is_set()

    assert asyncio.run(go())
