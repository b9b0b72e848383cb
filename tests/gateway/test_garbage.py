"""What a request leaves is gone at its end: nothing waits for a collection, and few there are."""

import asyncio
import gc
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import uvloop
from fastapi import FastAPI

from tests.gateway.echo import Echo
from tests.gateway.world import PROMPT, World, app_with
from trimtab.engine.wire.remote import RemoteEngine
from trimtab.engine.wire.server import Connection

REQUESTS = 80
CHAT = {"model": "desk", "messages": [{"role": "user", "content": PROMPT}], "max_tokens": 5}
ASK = {"model": "desk", "prompt": PROMPT, "max_tokens": 5}


async def ask(app: FastAPI, key: str, path: str, asked: dict[str, Any]) -> bytes:
    """The answer to a POST, without a client, which leaves garbage of its own."""
    body, left = json.dumps(asked).encode(), asyncio.Event()
    parts, told = [{"type": "http.request", "body": body, "more_body": False}], []

    async def receive() -> dict[str, Any]:
        if parts:
            return parts.pop()
        await left.wait()
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        assert message.get("status", 200) == 200
        told.append(message.get("body", b""))

    headers = {"authorization": f"Bearer {key}", "content-type": "application/json"}
    raw = [(name.encode(), value.encode()) for name, value in headers.items()]
    scope = {"type": "http", "method": "POST", "path": path, "headers": raw, "query_string": b""}
    await app({**scope, "http_version": "1.1", "root_path": ""}, receive, send)
    return b"".join(told)


@contextmanager
def uncollected() -> Iterator[list[int]]:
    """How many objects waited for the collector at the end; what was there before is passed over,
    for there may be millions."""
    found: list[int] = []
    gc.freeze()
    gc.disable()
    try:
        yield found
        found.append(gc.collect())
    finally:
        gc.enable()
        gc.unfreeze()


@pytest.mark.parametrize(
    ("path", "asked"),
    [
        ("/v1/chat/completions", CHAT),
        ("/v1/chat/completions", {**CHAT, "stream": True}),
        ("/v1/generate", ASK),
        ("/v1/generate", {**ASK, "stream": True}),
        ("/v1/score", {"model": "desk", "prompt": PROMPT, "completions": ["yes"]}),
    ],
)
def test_nothing_waits_for_the_collector(
    world: World, tmp_path: Path, path: str, asked: dict[str, Any]
) -> None:
    """The connection to the engine closes after the last of each eight."""

    async def go() -> int:
        echo, socket = Echo(), tmp_path / "engine.sock"

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await Connection(echo, reader, writer).serve()

        async with await asyncio.start_unix_server(serve, socket):
            app = app_with(world, RemoteEngine(socket))

            async def eight() -> None:
                asking = (ask(app, world.key.key, path, asked) for _ in range(8))
                answers = await asyncio.gather(*asking)
                assert all(b"desk" in answer for answer in answers)

            found = []
            for _ in range(3):
                with uncollected() as waited:
                    for _ in range(REQUESTS // 8):
                        await eight()
                found += waited
            # Statements are put into words once, for each number of rows that comes up.
            return min(found)

    # A cycle a request, or a connection, would be many hundreds. (The transports of asyncio's own
    # loop are cycles; the gateway runs on another.)
    assert uvloop.run(go()) < REQUESTS
