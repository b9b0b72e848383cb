"""Idempotency-Key and resumed streams: one answer and one bill, however often it is asked for."""

import asyncio
import json
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import httpx
import pytest

from tests.gateway.echo import Echo
from tests.gateway.test_stream import events
from tests.gateway.world import PRICE, PROMPT, World, until
from trimtab.gateway import replays, tables
from trimtab.gateway.bodies import Done
from trimtab.gateway.drain import Drain
from trimtab.gateway.problems import Problem
from trimtab.gateway.streams import live, stream
from trimtab.store.database import Database
from trimtab.store.rows import insert_or_update

ASK = {"model": "desk", "prompt": PROMPT, "max_tokens": 5}
NAMED = {"Idempotency-Key": "order-7"}
STREAM = {**ASK, "stream": True}


def marks(text: str) -> list[int]:
    return [int(line[4:]) for line in text.split("\n") if line.startswith("id: ")]


def told(text: str) -> str:
    """The text of all token events."""
    plain = "\n".join(line for line in text.split("\n") if not line.startswith("id: "))
    return "".join(data["text"] for event, data in events(plain) if event == "token")


async def nobody(said: str) -> bool:
    """Nobody listens elsewhere."""
    return False


def last(text: str) -> tuple[str, dict[str, Any]]:
    plain = "\n".join(line for line in text.split("\n") if not line.startswith("id: "))
    return events(plain)[-1]


def test_the_same_body_gets_the_same_answer_free_of_charge(
    world: World, client: httpx.Client, echo: Echo
) -> None:
    first = client.post("/v1/generate", json=ASK, headers=NAMED)
    again = client.post("/v1/generate", json=ASK, headers=NAMED)
    assert first.json() == again.json()
    assert "idempotency-replayed" not in first.headers
    assert again.headers["idempotency-replayed"] == "true"
    assert len(echo.asked) == len(world.log()) == 1
    assert world.account().spent_nano == round(first.json()["cost_usd"] * 1e9) > 0
    score = {"model": "desk", "prompt": PROMPT, "completions": ["yes"]}
    one, two = (
        client.post("/v1/score", json=score, headers={"Idempotency-Key": "s"}) for _ in "ab"
    )
    assert one.json() == two.json()


def test_another_body_is_refused(client: httpx.Client) -> None:
    client.post("/v1/generate", json=ASK, headers=NAMED)
    other = client.post("/v1/generate", json={**ASK, "max_tokens": 4}, headers=NAMED)
    assert (other.status_code, other.json()["code"]) == (422, "idempotency_mismatch")


def test_another_keys_answer_cannot_be_had(world: World, client: httpx.Client, echo: Echo) -> None:
    client.post("/v1/generate", json=ASK, headers=NAMED)
    stranger = world.new_key()
    headers = {**NAMED, "Authorization": f"Bearer {stranger.key}"}
    client.post("/v1/generate", json=ASK, headers=headers)
    assert len(echo.asked) == 2
    assert world.account(stranger).spent_nano > 0


@pytest.mark.parametrize("name", ["", "a b", "x" * 256])
def test_an_unfit_name_is_refused(client: httpx.Client, name: str) -> None:
    answer = client.post("/v1/generate", json=ASK, headers={"Idempotency-Key": name})
    assert (answer.status_code, answer.json()["code"]) == (400, "invalid_request")


def test_many_at_once_do_the_work_once(world: World, client: httpx.Client, echo: Echo) -> None:
    echo.pause_s = 0.05
    with ThreadPoolExecutor(8) as pool:
        answers = list(
            pool.map(lambda _: client.post("/v1/generate", json=ASK, headers=NAMED), range(8))
        )
    statuses = [answer.status_code for answer in answers]
    assert set(statuses) <= {200, 409}
    assert 200 in statuses
    busy = [answer for answer in answers if answer.status_code == 409]
    assert all(answer.headers["retry-after"] == "1" for answer in busy)
    assert len(echo.asked) == [each.status for each in world.log()].count(200) == 1
    assert world.account().spent_nano == PRICE.of(world.prompt_tokens, 5)


@pytest.mark.parametrize("streamed", [True, False])
def test_what_failed_may_be_tried_again_under_its_name(
    world: World, client: httpx.Client, echo: Echo, streamed: bool
) -> None:
    body = STREAM if streamed else ASK
    echo.die_after = 0
    failed = client.post("/v1/generate", json=body, headers=NAMED)
    assert "engine_unavailable" in failed.text
    echo.die_after = None
    until(lambda: client.post("/v1/generate", json=body, headers=NAMED).status_code == 200)
    assert "engine_unavailable" not in client.post("/v1/generate", json=body, headers=NAMED).text


def test_a_claim_that_a_crash_left_is_taken_over(
    world: World, client: httpx.Client, echo: Echo, monkeypatch: pytest.MonkeyPatch
) -> None:
    name, body = "order-7", b"{}"
    left = replays.Claim(world.key.id, name, replays.fingerprint("generate", body), "r", "dead")
    monkeypatch.setattr(replays, "CLAIM_US", 300_000)
    with world.database.transaction() as connection:
        assert replays.claim(connection, left) is None
    assert client.post("/v1/generate", json=ASK, headers=NAMED).status_code == 422
    until(lambda: client.post("/v1/generate", json=ASK, headers=NAMED).status_code == 200)


def test_a_stream_is_told_again_from_where_it_broke(
    world: World, client: httpx.Client, echo: Echo
) -> None:
    first = client.post("/v1/generate", json=STREAM, headers=NAMED)
    assert marks(first.text)[-1] == len("yes " * 5)
    assert marks(first.text) == sorted(marks(first.text))
    headers = {**NAMED, "Last-Event-ID": "8"}
    again = client.post("/v1/generate", json=STREAM, headers=headers)
    assert told(again.text) == "yes " * 3
    assert last(again.text) == last(first.text)
    assert len(echo.asked) == 1


def test_a_broken_stream_goes_on_for_a_client_that_comes_back(
    world: World, client: httpx.Client, echo: Echo
) -> None:
    echo.words, echo.pause_s = 20, 0.05
    body = {**STREAM, "max_tokens": 20}
    with client.stream("POST", "/v1/generate", json=body, headers=NAMED) as response:
        seen = next(response.iter_text())
    busy = client.post("/v1/generate", json=body, headers=NAMED)
    assert busy.status_code == 409
    at = marks(seen)[-1]
    rest = client.post("/v1/generate", json=body, headers={**NAMED, "Last-Event-ID": str(at)})
    assert told(seen) + told(rest.text) == "yes " * 20
    assert last(rest.text)[0] == "done"
    assert len(echo.asked) == 1
    [logged] = world.log()
    assert (logged.status, logged.completion_tokens) == (200, 20)
    assert world.account().spent_nano == PRICE.of(world.prompt_tokens, 20)


def test_a_resumable_stream_ends_by_the_deadline_of_its_deployment_alone(
    world: World, client: httpx.Client, echo: Echo, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream, "DEADLINE_S", 0.1)
    row = {"deployment": "desk", "safe_template": None, "deadline_s": 60.0}
    with world.database.transaction() as connection:
        insert_or_update(connection, tables.policies, row, key=["deployment"])
    echo.pause_s = 0.1
    answer = client.post("/v1/generate", json=STREAM, headers=NAMED)
    assert last(answer.text)[0] == "done"
    assert told(answer.text) == "yes " * 5


def test_a_client_that_does_not_come_back_ends_the_work(
    world: World, client: httpx.Client, echo: Echo, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live, "RESUME_S", 0.3)
    echo.words, echo.pause_s = 200, 0.02
    body = {**STREAM, "max_tokens": 200}
    with client.stream("POST", "/v1/generate", json=body, headers=NAMED) as response:
        next(response.iter_text())
    started = time.monotonic()
    until(lambda: len(world.log()) == 1)
    assert time.monotonic() - started < 3
    [logged] = world.log()
    assert (logged.status, logged.finish_reason, echo.running) == (499, "cancelled", 0)
    assert logged.cost_nano == PRICE.of(world.prompt_tokens, logged.completion_tokens)
    assert world.account().held_nano == 0
    echo.words = 1
    until(lambda: client.post("/v1/generate", json=body, headers=NAMED).status_code != 409)


def test_a_stream_that_nobody_works_on_is_not_begun_in_its_middle(
    client: httpx.Client, echo: Echo
) -> None:
    lost = client.post("/v1/generate", json=STREAM, headers={**NAMED, "Last-Event-ID": "8"})
    assert (lost.status_code, lost.json()["code"]) == (409, "stream_lost")
    assert not echo.asked
    begun = client.post("/v1/generate", json=STREAM, headers={**NAMED, "Last-Event-ID": "0"})
    assert told(begun.text) == "yes " * 5


def test_who_follows_a_stream_elsewhere_hears_that_it_broke_off(
    world: World, client: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live, "POLL_S", 0.01)
    body = json.dumps(STREAM).encode()
    print_ = replays.fingerprint("generate", body)
    theirs = replays.Claim(world.key.id, "order-7", print_, "r", "another gateway")
    with world.database.transaction() as connection:
        assert replays.claim(connection, theirs) is None
        assert not replays.attended(connection, theirs)
        assert not replays.publish(connection, theirs, "said ")
    headers = {**NAMED, "Last-Event-ID": "2", "Content-Type": "application/json"}
    with ThreadPoolExecutor(1) as pool:
        following = pool.submit(client.post, "/v1/generate", content=body, headers=headers)

        def published() -> bool:
            with world.database.transaction() as connection:
                return replays.publish(connection, theirs, "said ")

        until(published)
        # It is begun anew, by somebody who may say something else.
        with world.database.transaction() as connection:
            replays.release(connection, theirs)
            assert replays.claim(connection, replace(theirs, request_id="r2")) is None
        followed = following.result(10).text
    # As an event or, before the first byte, as an answer.
    assert '"code":"stream_lost"' in followed
    assert '"retryable":true' in followed
    assert "event: done" not in followed


def test_whatever_is_said_can_be_put_down_and_who_listens_says_so_seldom(
    database: Database,
) -> None:
    held = replays.Claim("k", "order-7", "f", "r", "a gateway")
    said = "nul \0, half a pair \ud83d, \u2028 and plain"
    with database.transaction() as connection:
        assert replays.claim(connection, held) is None
        heard = replays.listen(connection, held)
        assert heard is not None
        assert heard.unknown
        replays.attend(connection, held)
        assert replays.attended(connection, held)
        assert replays.publish(connection, held, said)
        heard = replays.listen(connection, held)
        assert heard == replays.Heard("r", said, None, unknown=False)


def test_a_dead_connection_that_counts_as_open_hides_no_listener(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(live, "POLL_S", 0.01)

    async def go() -> list[str]:
        asked: list[str] = []
        ends = asyncio.Event()

        async def listened(said: str) -> bool:
            asked.append(said)
            ends.set()
            return True

        one = live.Live("f", "trace", listened)
        one.stream(0)  # never read, never left
        await one.hear("so far")
        await one.unless_left(_until(ends), 10)
        assert one.is_read
        return asked

    assert asyncio.run(go()) == ["so far"]


async def _until(ends: asyncio.Event) -> None:
    await ends.wait()


def test_few_connections_follow_one_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "FOLLOWERS", 1)
    lives, name = live.Lives(Drain()), ("key", "order-7")
    for _ in range(2):
        with lives.followed(name), lives.followed(("key", "other")):
            with pytest.raises(Problem) as refused, lives.followed(name):
                pass
            assert (refused.value.status, refused.value.retryable) == (409, True)


@pytest.mark.parametrize("mark", ["x", "-1", "1e3", "9" * 12])
def test_an_unfit_mark_is_refused(client: httpx.Client, mark: str) -> None:
    headers = {**NAMED, "Last-Event-ID": mark}
    assert client.post("/v1/generate", json=STREAM, headers=headers).status_code == 400


def test_what_is_kept_is_deleted_when_its_time_is_over(
    world: World, client: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replays, "KEPT_US", 0)
    client.post("/v1/generate", json=ASK, headers=NAMED)
    monkeypatch.undo()
    client.post("/v1/generate", json=ASK, headers={"Idempotency-Key": "later"})
    with world.database.transaction() as connection:
        assert replays.purge(connection) == 1
        assert replays.purge(connection) == 0
        assert replays.purge(connection, all_of=[world.key.id]) == 1


def test_a_stream_under_a_name_ends_itself_alone(caplog: pytest.LogCaptureFixture) -> None:
    """One that ends late leaves the one that took its place; its fault is logged, without words."""

    async def go() -> None:
        lives, fault = live.Lives(Drain()), asyncio.Event()

        async def faulty() -> Done:
            await fault.wait()
            raise ValueError("a prompt")

        name, second = ("key", "order-7"), live.Live("f", "trace-2", nobody)
        lives.start(name, live.Live("f", "trace-1", nobody), faulty())
        lives.start(name, second, asyncio.sleep(60, Done.model_construct()))
        fault.set()
        await asyncio.sleep(0.01)
        assert lives.get(name) is second
        await lives.drain.finish(0)
        assert lives.get(name) is None

    asyncio.run(go())
    assert "trace trace-1: internal error: ValueError at test_replays.py" in caplog.text
    assert "a prompt" not in caplog.text


def test_words_of_old_answers_give_way_and_nobody_pays_twice(
    world: World, client: httpx.Client, echo: Echo, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replays, "MOST", 2)
    names = ["first", "second", "third"]
    for name in names:
        client.post("/v1/generate", json=ASK, headers={"Idempotency-Key": name})
    stranger = {"Authorization": f"Bearer {world.new_key().key}", **NAMED}
    client.post("/v1/generate", json=ASK, headers=stranger)
    with world.database.transaction() as connection:
        assert replays.shorten(connection) == 1
        assert replays.shorten(connection) == 0
    answers = [
        client.post("/v1/generate", json=ASK, headers={"Idempotency-Key": name}) for name in names
    ]
    assert [answer.status_code for answer in answers] == [409, 200, 200]
    assert answers[0].json()["code"] == "answer_not_kept"
    assert client.post("/v1/generate", json=ASK, headers=stranger).status_code == 200
    assert len(echo.asked) == 4
