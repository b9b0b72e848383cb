"""A project that wants prompts logged has them in one place; without that word they are nowhere
(`test_secrets` looks everywhere)."""

import json
import logging
from pathlib import Path
from typing import Any

import httpx
import pytest
from websockets.sync.client import connect

from tests.gateway.echo import Echo
from tests.gateway.test_policies import project
from tests.gateway.world import World
from trimtab.gateway.offline import retention
from trimtab.gateway.telemetry.spoken import LOOKED_AT, beginning, masked
from trimtab.gateway.tiers import policies
from trimtab.journal import words
from trimtab.journal.words import Words

CANARY = "canary-91ab"
ASK: dict[str, Any] = {"model": "desk", "prompt": CANARY, "max_tokens": 2}


@pytest.fixture
def echo() -> Echo:
    return Echo(word=f"{CANARY}-said ")


@pytest.fixture
def logs_words(world: World, tmp_path: Path) -> None:
    folder = tmp_path / "project"
    folder.mkdir()
    with world.database.transaction() as connection:
        policies.declare(connection, project(folder, "log_prompts: true"))


def kept(world: World) -> list[Words]:
    """Of every request of the log, in its order, what is kept of its words."""
    with world.database.read() as connection:
        found = [words.get(connection, each.id) for each in world.log()]
    return [each for each in found if each is not None]


@pytest.mark.usefixtures("logs_words")
def test_what_is_asked_and_said_is_kept_where_the_project_wants_it(
    world: World,
    client: httpx.Client,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    caplog.set_level(logging.DEBUG, "trimtab")
    turns = [{"role": "user", "content": CANARY}]
    said = f"{CANARY}-said " * 2
    client.post("/v1/generate", json=ASK)
    client.post("/v1/generate", json={**ASK, "stream": True, "n": 1})
    client.post("/v1/generate", json={**ASK, "n": 2})
    chat = {"model": "desk", "messages": turns, "max_tokens": 2}
    client.post("/v1/chat/completions", json=chat)
    client.post("/v1/score", json={"model": "desk", "prompt": CANARY, "completions": ["no"]})
    address = str(client.base_url).replace("http", "ws")
    bearer = {"Authorization": f"Bearer {world.key.key}"}
    with connect(f"{address}/v1/stream", additional_headers=bearer) as socket:
        socket.send(json.dumps(ASK))
        while json.loads(socket.recv(timeout=10))["event"] == "token":
            pass
    told = [(each.prompt, each.answer) for each in kept(world)]
    assert told[:3] == [(CANARY, said)] * 2 + [(CANARY, json.dumps([said, said]))]
    [turn] = json.loads(told[3][0])
    assert (turn["role"], turn["content"], told[3][1]) == ("user", CANARY, said)
    assert told[4] == (json.dumps({"prompt": CANARY, "completions": ["no"]}), "")
    assert told[5] == (CANARY, said)
    assert {(each.owner, each.key_id, each.cut) for each in kept(world)} == {
        ("somebody", world.key.id, False)
    }
    assert CANARY not in repr(world.log()) + caplog.text + "".join(capfd.readouterr())


@pytest.mark.usefixtures("logs_words")
def test_secrets_and_what_was_not_asked_by_its_name_are_not_kept(
    world: World, client: httpx.Client
) -> None:
    client.post("/v1/generate", json={**ASK, "prompt": f"my key is {world.key.key}, help"})
    client.post("/v1/generate", json={**ASK, "model": world.adapter.hash})
    [found] = kept(world)
    assert found.prompt == f"my key is tt_{world.key.id}_***, help"
    assert masked("Authorization: Bearer abcdefgh12345678") == "Authorization: Bearer ***"
    assert masked("a bearer of bad news, a bearer token") == "a bearer of bad news, a bearer token"


@pytest.mark.parametrize("before", ["x ", "bearer " + "y" * 900 + " "])
def test_no_half_of_a_secret_is_kept_where_a_text_is_cut(before: str) -> None:
    filled = before * (LOOKED_AT // len(before) + 99)
    assert beginning(filled[:9000]) == (masked(filled[:9000]), False)
    for secret in ("tt_0123abcd_" + "Z" * 43, "Bearer " + "Z" * 43):
        for place in range(-70, 20, 3):
            found, cut = beginning(f"{filled[: LOOKED_AT + place]} {secret}, {filled[:900]}")
            assert cut
            assert "Z" not in found


@pytest.mark.usefixtures("logs_words")
def test_a_long_text_is_masked_before_the_database_is_asked(
    world: World, client: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked: list[int] = []

    def look(text: str) -> str:
        looked.append(len(text))
        return masked(text)

    monkeypatch.setattr("trimtab.gateway.telemetry.spoken.masked", look)
    client.post("/v1/generate", json={**ASK, "prompt": "x" * 100_000})
    [found] = kept(world)
    assert (found.prompt, found.cut) == ("x" * words.MOST_CHARACTERS, True)
    assert max(looked) == LOOKED_AT


@pytest.mark.usefixtures("logs_words")
def test_a_stream_that_is_left_and_an_engine_that_dies_keep_what_was_said(
    world: World, client: httpx.Client, echo: Echo
) -> None:
    echo.die_after = 1
    assert client.post("/v1/generate", json={**ASK, "stream": True}).status_code == 200
    [found] = kept(world)
    assert (found.prompt, found.answer) == (CANARY, f"{CANARY}-said ")


@pytest.mark.usefixtures("logs_words")
def test_logged_words_go_with_their_owner(world: World, client: httpx.Client) -> None:
    client.post("/v1/generate", json=ASK)
    assert retention.purge(world.database, world.content).words == 0
    other = retention.purge(world.database, world.content, everything=True, owner="else")
    assert (other.words, len(kept(world))) == (0, 1)
    gone = retention.purge(world.database, world.content, everything=True, owner="somebody")
    assert (gone.words, kept(world), len(world.log())) == (1, [], 1)


def test_nothing_is_kept_unasked(world: World, client: httpx.Client, tmp_path: Path) -> None:
    client.post("/v1/generate", json=ASK)
    folder = tmp_path / "project"
    folder.mkdir()
    with world.database.transaction() as connection:
        policies.declare(connection, project(folder, "log_prompts: true"))
        policies.declare(connection, project(folder, "log_prompts: false"))
    client.post("/v1/generate", json=ASK)
    assert (kept(world), len(world.log())) == ([], 2)
    with world.database.read() as connection:
        assert connection.exec_driver_sql("SELECT count(*) FROM words").scalar() == 0
