"""A disk that is full or read-only: paid work is refused, never given away, and comes back by
itself."""

import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import httpx
import pytest

from tests.gateway.echo import Echo
from tests.gateway.test_stream import events
from tests.gateway.world import PRICE, PROMPT, World, build_world, until
from trimtab.gateway.billing import heartbeat

ASK = {"model": "desk", "prompt": PROMPT, "max_tokens": 5}


@pytest.fixture
def world(tiny_disk: Path, base_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    monkeypatch.setattr(heartbeat, "BEAT_S", 0.05)
    built = build_world(tiny_disk, base_folder)
    yield built
    built.database.close()


def fill(disk: Path) -> Path:
    """Write until nothing more fits."""
    file = disk / "ballast"
    with file.open("wb", buffering=0) as out, suppress(OSError):
        while True:
            out.write(b"x" * 4096)
    return file


def agree(world: World) -> None:
    """Log and ledger say the same, and nothing is held."""
    assert world.account().held_nano == 0
    assert world.account().spent_nano == sum(logged.cost_nano for logged in world.log())


def test_a_full_disk_refuses_work_and_comes_back(
    world: World, client: httpx.Client, echo: Echo, tiny_disk: Path
) -> None:
    assert client.post("/v1/generate", json=ASK).status_code == 200
    ballast = fill(tiny_disk)
    # What the log of the database has room for already goes on for a moment.
    refused = client.post("/v1/generate", json=ASK)
    for _ in range(30):
        if refused.status_code != 200:
            break
        refused = client.post("/v1/generate", json=ASK)
    assert (refused.status_code, refused.json()["code"]) == (503, "storage_full")
    assert refused.json()["retryable"]
    asked = len(echo.asked)
    for _ in range(3):
        assert client.post("/v1/generate", json=ASK).status_code == 503
    assert len(echo.asked) == asked
    ballast.unlink()
    assert client.post("/v1/generate", json=ASK).status_code == 200
    until(lambda: world.account().held_nano == 0)
    agree(world)


def test_what_a_disk_that_fills_kept_from_being_settled_is_settled_later(
    world: World, client: httpx.Client, echo: Echo, tiny_disk: Path
) -> None:
    echo.words, echo.pause_s = 20, 0.05
    body = {**ASK, "max_tokens": 20, "stream": True}
    with client.stream("POST", "/v1/generate", json=body) as response:
        pieces = response.iter_text()
        text = next(pieces)
        ballast = fill(tiny_disk)
        for _ in range(30):
            if _locked_out(client):
                break
        text += "".join(pieces)
    assert events(text)[-1][1]["code"] == "storage_full"
    assert world.account().held_nano > 0
    ballast.unlink()
    until(lambda: world.account().held_nano == 0)
    agree(world)
    assert PRICE.of(world.prompt_tokens, 20) in {logged.cost_nano for logged in world.log()}


def _locked_out(client: httpx.Client) -> bool:
    """Whether a request that needs no time is refused."""
    return client.post("/v1/generate", json={**ASK, "max_tokens": 1}).status_code == 503


def test_a_read_only_disk_refuses_work_and_comes_back(
    world: World, client: httpx.Client, echo: Echo, tiny_disk: Path
) -> None:
    assert client.post("/v1/generate", json=ASK).status_code == 200
    world.database.close()  # a file that is open for writing keeps its disk from being shut
    subprocess.run(["mount", "-o", "remount,ro", str(tiny_disk)], check=True)
    try:
        asked = len(echo.asked)
        for _ in range(2):
            refused = client.post("/v1/generate", json=ASK)
            assert (refused.status_code, refused.json()["code"]) == (503, "store_unavailable")
            assert str(tiny_disk) not in refused.text
        assert len(echo.asked) == asked
    finally:
        world.database.close()
        subprocess.run(["mount", "-o", "remount,rw", str(tiny_disk)], check=True)
    assert client.post("/v1/generate", json=ASK).status_code == 200
    until(lambda: world.account().held_nano == 0)
    agree(world)
