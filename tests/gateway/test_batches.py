"""Batches through a real gateway: what comes out, who pays, and what makes them wait."""

import asyncio
from collections.abc import Iterator
from typing import Any

import httpx
import openai
import pytest
from openai import OpenAI

from tests.gateway.echo import Echo
from tests.gateway.offline_world import ASK, ended, jsonl, request, results, shown, started, upload
from tests.gateway.world import PRICE, PROMPT, World, app_with, listening, until
from trimtab.errors import EngineOverloaded
from trimtab.gateway import keys
from trimtab.gateway.offline import asking, batches, lines, worker
from trimtab.gateway.tiers import breaker
from trimtab.inference import GenerateRequest, Usage
from trimtab.ledger.accounts import set_budget
from trimtab.store.blobs import Blobs
from trimtab.store.database import Connection

USER = {"role": "user", "content": PROMPT}


@pytest.fixture
def client(world: World, echo: Echo, monkeypatch: pytest.MonkeyPatch) -> Iterator[httpx.Client]:
    """Speaks to a gateway that works batches, and tries again soon."""
    monkeypatch.setattr(asking, "BASE_S", 0.02)
    monkeypatch.setattr(asking, "BUSY_S", 0.02)
    monkeypatch.setattr(asking, "BUDGET_S", 0.05)
    monkeypatch.setattr(worker, "POLL_S", 0.1)
    with listening(app_with(world, echo), world.key.key, works=True) as speaking:
        yield speaking


def letters(world: World) -> list[tuple[str, str]]:
    with world.database.read() as connection:
        found = connection.exec_driver_sql("SELECT name, reason FROM dead_letters ORDER BY place")
        return [(row[0], row[1]) for row in found]


def open_holds(world: World) -> int:
    with world.database.read() as connection:
        return len(
            connection.exec_driver_sql("SELECT id FROM holds WHERE state = 'open'").fetchall()
        )


def test_openais_client_runs_a_batch_of_chats(world: World, client: httpx.Client) -> None:
    asks = [
        request("a", "/v1/chat/completions", messages=[USER], user="u-1"),
        request("b", "/v1/chat/completions", messages=[USER], max_tokens=2),
    ]
    for ask in asks:
        del ask["body"]["prompt"]
    with OpenAI(api_key=world.key.key, base_url=f"{client.base_url}/v1", max_retries=0) as theirs:
        file = theirs.files.create(file=("asks.jsonl", jsonl(asks)), purpose="batch")
        made = theirs.batches.create(
            input_file_id=file.id,
            endpoint="/v1/chat/completions",
            completion_window="24h",
            metadata={"run": "nightly"},
        )
        assert (made.object, made.status, made.metadata) == (
            "batch",
            "in_progress",
            {"run": "nightly"},
        )
        assert made.expires_at == made.created_at + 24 * 3600
        until(lambda: theirs.batches.retrieve(made.id).status == "completed", 30)
        done = theirs.batches.retrieve(made.id)
        assert done.request_counts is not None
        assert (done.request_counts.total, done.request_counts.completed) == (2, 2)
        assert (done.error_file_id, done.completed_at is not None) == (None, True)
        assert [batch.id for batch in theirs.batches.list()] == [made.id]
        assert done.output_file_id is not None
        one, two = results(client, done.output_file_id)
        assert theirs.files.retrieve(done.output_file_id).purpose == "batch_output"
        with pytest.raises(openai.ConflictError):
            theirs.batches.cancel(made.id)
        with pytest.raises(openai.NotFoundError):
            theirs.batches.retrieve("batch_nobody")
    assert (one["custom_id"], two["custom_id"]) == ("a", "b")
    body = one["response"]["body"]
    assert (one["response"]["status_code"], one["error"]) == (200, None)
    assert body["choices"][0]["message"]["content"] == "yes " * 5
    assert two["response"]["body"]["choices"][0]["finish_reason"] == "length"
    assert body["trimtab"]["tier"] == "adapter"
    logged = {answered.id: answered for answered in world.log()}
    assert logged.keys() == {one["id"], two["id"]}
    assert logged[one["id"]].route == "batch.chat.completions"
    assert logged[one["id"]].user_id == "u-1"
    for told in (one, two):
        found = logged[told["id"]]
        cost = round(told["response"]["body"]["trimtab"]["cost_usd"] * 1e9)
        assert cost == found.cost_nano == world.spent_for(found) > 0
    assert world.account().spent_nano == sum(found.cost_nano for found in logged.values())
    assert open_holds(world) == 0


@pytest.mark.parametrize(
    ("url", "more", "told"),
    [
        ("/v1/generate", {}, lambda body: body["text"]),
        ("/v1/completions", {"prompt": "Once"}, lambda body: body["choices"][0]["text"]),
        (
            "/v1/score",
            {"completions": ["yes", "no"]},
            lambda body: [round(s["log_probability"] / s["tokens"], 9) for s in body["scores"]],
        ),
    ],
)
def test_each_route_can_be_asked_offline(
    client: httpx.Client, echo: Echo, url: str, more: dict[str, object], told: object
) -> None:
    asks = [request(f"r{number}", url, **more) for number in range(3)]
    if url == "/v1/score":
        for ask in asks:
            del ask["body"]["max_tokens"]
    done = ended(client, started(client, jsonl(asks), url))
    assert done["status"] == "completed"
    found = results(client, done["output_file_id"])
    assert [line["custom_id"] for line in found] == ["r0", "r1", "r2"]
    expected = [-0.25, -0.25] if url == "/v1/score" else "yes " * 5
    assert all(told(line["response"]["body"]) == expected for line in found)  # type: ignore[operator]
    assert {asked.priority for asked in echo.asked} == {"batch"}


def test_answers_stand_in_the_order_of_the_lines(client: httpx.Client, echo: Echo) -> None:
    echo.pause_s = 0.005
    asks = [request(f"r{number}", max_tokens=1 + number % 7) for number in range(40)]
    done = ended(client, started(client, jsonl(asks)))
    assert done["request_counts"] == {"total": 40, "completed": 40, "failed": 0}
    found = results(client, done["output_file_id"])
    assert [line["custom_id"] for line in found] == [f"r{number}" for number in range(40)]


def test_what_can_never_work_is_a_dead_letter_and_costs_nothing(
    world: World, client: httpx.Client, echo: Echo
) -> None:
    asks = [
        request("good"),
        request("nobody", model="nobody"),
        request("long", prompt="word " * 3000),
        request("unverified", model=world.unverified.hash),
    ]
    done = ended(client, started(client, jsonl(asks)))
    assert (done["status"], done["request_counts"]) == (
        "completed",
        {"total": 4, "completed": 1, "failed": 3},
    )
    assert [line["custom_id"] for line in results(client, done["output_file_id"])] == ["good"]
    errors = results(client, done["error_file_id"])
    assert [(line["custom_id"], line["error"]["code"]) for line in errors] == letters(world)
    assert [reason for _, reason in letters(world)] == [
        "model_not_found",
        "too_long",
        "not_verified",
    ]
    assert all(line["response"] is None and line["error"]["message"] for line in errors)
    assert len(world.log()) == 1
    assert world.account().spent_nano == world.log()[0].cost_nano
    assert open_holds(world) == 0


def test_a_batch_never_falls_back_to_a_lower_tier(
    world: World, client: httpx.Client, echo: Echo, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(breaker, "FAILURES", 1000)
    echo.die_after = 2
    done = ended(client, started(client, jsonl([request("a"), request("b")])))
    assert letters(world) == [("a", "engine_unavailable"), ("b", "engine_unavailable")]
    assert {asked.version for asked in echo.asked} == {world.adapter.hash}
    assert len(echo.asked) == 2 * asking.ATTEMPTS
    assert (done["status"], done["output_file_id"]) == ("completed", None)
    assert (world.account().spent_nano, world.account().held_nano) == (0, 0)
    assert world.log() == []


def test_an_open_breaker_makes_it_wait_and_never_dead_letters(
    world: World, client: httpx.Client, echo: Echo, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(breaker, "OPEN_S", 0.3)
    echo.die_after = 0
    batch = started(client, jsonl([request(f"r{number}") for number in range(12)]))
    until(lambda: shown(client, batch)["trimtab"]["waits_for"] == "breaker_open")
    assert shown(client, batch)["status"] == "in_progress"
    assert world.account().held_nano == 0
    echo.die_after = None
    done = ended(client, batch)
    assert done["request_counts"] == {"total": 12, "completed": 12, "failed": 0}
    assert done["trimtab"]["waits_for"] is None
    assert letters(world) == []


def test_a_full_queue_is_no_failure(
    world: World, client: httpx.Client, echo: Echo, monkeypatch: pytest.MonkeyPatch
) -> None:
    full = 20
    take = echo._take

    def busy(request: object) -> None:
        nonlocal full
        if full:
            full -= 1
            raise EngineOverloaded("the queue is full", retry_s=0.02)
        take(request)  # type: ignore[arg-type]

    monkeypatch.setattr(echo, "_take", busy)
    done = ended(client, started(client, jsonl([request("a"), request("b")])))
    assert done["request_counts"]["completed"] == 2
    assert (full, letters(world)) == (0, [])


def test_a_queue_that_is_full_for_long_is_left_alone_for_as_long(
    world: World, client: httpx.Client, echo: Echo, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = 0

    def busy(request: object) -> None:
        nonlocal asked
        asked += 1
        raise EngineOverloaded("busy", retry_s=3600)

    monkeypatch.setattr(echo, "_take", busy)
    batch = started(client, jsonl([request("a")]))
    until(lambda: shown(client, batch)["trimtab"]["waits_for"] == "overloaded")
    told = shown(client, batch)
    assert told["created_at"] + 50 < told["trimtab"]["not_before"] < told["created_at"] + 120
    assert asked == 1


def test_a_rate_limit_makes_it_wait_and_never_dead_letters(
    world: World, client: httpx.Client
) -> None:
    with world.database.transaction() as connection:
        slow = keys.create(connection, "slow", "slow", limits=keys.Limits(requests_per_minute=1))
    with httpx.Client(
        base_url=client.base_url, headers={"Authorization": f"Bearer {slow.key}"}
    ) as theirs:
        batch = started(theirs, jsonl([request(f"r{number}") for number in range(3)]))
        until(lambda: shown(theirs, batch)["trimtab"]["waits_for"] == "rate_limited")
        assert shown(theirs, batch)["trimtab"]["not_before"] is not None
        with world.database.transaction() as connection:
            connection.exec_driver_sql("UPDATE keys SET requests_per_minute = NULL")
            connection.exec_driver_sql("UPDATE batches SET not_before_us = 0")
        assert ended(theirs, batch)["request_counts"]["completed"] == 3
    assert letters(world) == []


def test_a_line_that_no_rate_limit_lets_pass_is_a_dead_letter(
    world: World, client: httpx.Client
) -> None:
    with world.database.transaction() as connection:
        small = keys.create(connection, "small", "small", limits=keys.Limits(tokens_per_minute=1))
    with httpx.Client(
        base_url=client.base_url, headers={"Authorization": f"Bearer {small.key}"}
    ) as theirs:
        done = ended(theirs, started(theirs, jsonl([request("a")])))
    assert (done["status"], done["request_counts"]["failed"]) == ("completed", 1)
    assert letters(world) == [("a", "rate_limited")]


@pytest.mark.parametrize(("pause_s", "reasons"), [(0.15, []), (1.5, ["timeout"])])
def test_a_long_answer_is_no_silence_and_an_answer_that_falls_silent_is_tried_again(
    world: World,
    client: httpx.Client,
    echo: Echo,
    monkeypatch: pytest.MonkeyPatch,
    pause_s: float,
    reasons: list[str],
) -> None:
    monkeypatch.setattr(asking, "PATIENCE_S", 0.5)
    monkeypatch.setattr(asking, "ATTEMPTS", 1)
    begun = asking.Visit.begin_attempt

    def first_token(visit: asking.Visit) -> None:
        begun(visit)
        if reasons:
            visit.usage = Usage(1, 1)

    monkeypatch.setattr(asking.Visit, "begin_attempt", first_token)
    echo.pause_s = pause_s
    ended(client, started(client, jsonl([request("a")])))
    assert [reason for _, reason in letters(world)] == reasons


def test_a_fault_of_one_batch_costs_no_other(
    client: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    bad: list[str] = []
    claim = lines.claim

    def fails(connection: Connection, content: Blobs, batch: str, *more: Any) -> Any:
        bad[:] = bad or [batch]
        if batch in bad:
            raise ValueError("no line")
        return claim(connection, content, batch, *more)

    monkeypatch.setattr(lines, "claim", fails)
    started(client, jsonl([request("a")]))
    until(lambda: bool(bad))
    assert ended(client, started(client, jsonl([request("b")])))["status"] == "completed"


@pytest.mark.parametrize(
    "line",
    [
        b'{"custom_id": "a", "method": "POST", "url": "/v1/generate", "body": {"model": "desk",'
        b' "prompt": "x", "json_schema": {"const": NaN}}}',
        jsonl([request("a\x00")]),
    ],
)
def test_a_line_that_cannot_be_written_down_is_refused_when_it_comes(
    client: httpx.Client, line: bytes
) -> None:
    refused = upload(client, line)
    assert (refused.status_code, refused.json()["error"]["code"]) == (400, "invalid_request")


def test_a_used_up_budget_pauses_it_until_there_is_more(world: World, client: httpx.Client) -> None:
    each = PRICE.of(world.prompt_tokens, 5)
    poor = world.new_key(2 * each)
    with httpx.Client(
        base_url=client.base_url, headers={"Authorization": f"Bearer {poor.key}"}
    ) as theirs:
        batch = started(theirs, jsonl([request(f"r{number}") for number in range(4)]))
        until(lambda: shown(theirs, batch)["request_counts"]["completed"] == 2)
        until(lambda: shown(theirs, batch)["trimtab"]["waits_for"] == "budget_exceeded")
        assert shown(theirs, batch)["status"] == "in_progress"
        assert world.account(poor).held_nano == 0
        with world.database.transaction() as connection:
            set_budget(connection, "key", poor.id, "total", 4 * each)
        done = ended(theirs, batch)
    assert done["request_counts"] == {"total": 4, "completed": 4, "failed": 0}
    assert world.account(poor).spent_nano == 4 * each
    assert letters(world) == []


def test_what_is_not_done_in_time_has_expired(
    world: World, client: httpx.Client, echo: Echo, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lines, "_AT_ONCE", 3)
    poor = world.new_key(PRICE.of(world.prompt_tokens, 5))
    with httpx.Client(
        base_url=client.base_url, headers={"Authorization": f"Bearer {poor.key}"}
    ) as theirs:
        batch = started(theirs, jsonl([request(f"r{number}") for number in range(20)]))
        until(lambda: shown(theirs, batch)["trimtab"]["waits_for"] == "budget_exceeded")
        with world.database.transaction() as connection:
            connection.exec_driver_sql("UPDATE batches SET expires_us = 1")
        done = ended(theirs, batch)
        assert (done["status"], done["expired_at"] is not None) == ("expired", True)
        assert done["request_counts"] == {"total": 20, "completed": 1, "failed": 19}
        errors = results(theirs, done["error_file_id"])
        [answered] = results(theirs, done["output_file_id"])
    assert {line["error"]["code"] for line in errors} == {"expired"}
    ids = {line["custom_id"] for line in errors} | {answered["custom_id"]}
    assert ids == {f"r{number}" for number in range(20)}
    assert open_holds(world) == 0


def test_a_cancelled_batch_keeps_what_was_answered(
    world: World, client: httpx.Client, echo: Echo
) -> None:
    echo.pause_s = 0.02
    batch = started(client, jsonl([request(f"r{number}") for number in range(100)]))
    until(lambda: shown(client, batch)["request_counts"]["completed"] > 0)
    cancelling = client.post(f"/v1/batches/{batch}/cancel").json()
    assert cancelling["status"] == "cancelling"
    done = ended(client, batch)
    assert (done["status"], done["cancelled_at"] is not None) == ("cancelled", True)
    answered = results(client, done["output_file_id"])
    assert 0 < len(answered) == done["request_counts"]["completed"] < 100
    assert world.account().spent_nano == sum(found.cost_nano for found in world.log())
    assert (len(world.log()), letters(world), open_holds(world)) == (len(answered), [], 0)


def test_interactive_work_goes_first(world: World, client: httpx.Client, echo: Echo) -> None:
    """While somebody waits for an answer here, one line at a time is begun."""
    echo.words, echo.pause_s = 200, 0.05
    stream = {**ASK, "max_tokens": 200, "stream": True}
    with client.stream("POST", "/v1/generate", json=stream) as response:
        # Dropped, the iterator would close the connection.
        pieces = response.iter_text()
        next(pieces)
        batch = started(client, jsonl([request(f"r{n}", max_tokens=2) for n in range(12)]))
        most = 0

        def some_done() -> bool:
            nonlocal most
            most = max(most, echo.running)
            return bool(shown(client, batch)["request_counts"]["completed"] >= 2)

        until(some_done)
        assert (most, echo.running) in [(2, 1), (2, 2)]
    assert [a.priority for a in echo.asked[:2]] == ["interactive", "batch"]
    assert ended(client, batch)["request_counts"]["completed"] == 12


def test_two_batches_take_turns(client: httpx.Client, echo: Echo) -> None:
    echo.pause_s = 0.01
    long = started(client, jsonl([request(f"r{number}") for number in range(150)]))
    short = started(client, jsonl([request("s")]))
    assert ended(client, short)["status"] == "completed"
    assert shown(client, long)["status"] == "in_progress"
    client.post(f"/v1/batches/{long}/cancel")
    ended(client, long)


def test_a_file_in_use_stays_and_another_owners_batch_cannot_be_had(
    world: World, client: httpx.Client, echo: Echo
) -> None:
    echo.pause_s = 0.05
    batch = started(client, jsonl([request(f"r{number}") for number in range(9)]))
    file = shown(client, batch)["input_file_id"]
    busy = client.delete(f"/v1/files/{file}")
    assert (busy.status_code, busy.json()["error"]["code"]) == (409, "file_in_use")
    with world.database.transaction() as connection:
        stranger = keys.create(connection, "stranger", "stranger")
    headers = {"Authorization": f"Bearer {stranger.key}"}
    body = {"input_file_id": file, "endpoint": "/v1/generate", "completion_window": "24h"}
    for answer in (
        client.get(f"/v1/batches/{batch}", headers=headers),
        client.post(f"/v1/batches/{batch}/cancel", headers=headers),
        client.post("/v1/batches", json=body, headers=headers),
    ):
        assert answer.status_code == 404
    assert client.get("/v1/batches", headers=headers).json()["data"] == []
    ended(client, batch)
    assert client.delete(f"/v1/files/{file}").status_code == 200


def test_what_cannot_be_a_batch_is_refused(
    world: World, client: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = upload(client, jsonl([request("a")])).json()["id"]
    good = {"input_file_id": file, "endpoint": "/v1/generate", "completion_window": "24h"}
    for more, code in (
        ({"input_file_id": "file-nobody"}, "file_not_found"),
        ({"input_file_id": "../../etc/passwd"}, "invalid_request"),
        ({"endpoint": "/v1/score"}, "invalid_request"),
        ({"endpoint": "http://169.254.169.254/"}, "invalid_request"),
        ({"completion_window": "30d"}, "invalid_request"),
        ({"completion_window": "soon"}, "invalid_request"),
        ({"metadata": {"a": "x" * 513}}, "invalid_request"),
        ({"more": 1}, "invalid_request"),
    ):
        answer = client.post("/v1/batches", json={**good, **more})
        assert answer.json()["error"]["code"] == code, more
        assert 400 <= answer.status_code < 500
    with world.database.transaction() as connection:
        scorer = keys.create(connection, "s", "somebody", scopes=["score", "batches"])
    headers = {"Authorization": f"Bearer {scorer.key}"}
    refused = client.post("/v1/batches", json=good, headers=headers)
    assert (refused.status_code, refused.json()["error"]["code"]) == (403, "wrong_scope")
    monkeypatch.setattr(batches, "MOST_OPEN", 0)
    many = client.post("/v1/batches", json=good)
    assert (many.status_code, many.json()["error"]["code"]) == (429, "too_many_batches")


def test_one_name_makes_one_batch(client: httpx.Client) -> None:
    file = upload(client, jsonl([request("a")])).json()["id"]
    body = {"input_file_id": file, "endpoint": "/v1/generate", "completion_window": "24h"}
    named = {"Idempotency-Key": "night-7"}
    one, two = (client.post("/v1/batches", json=body, headers=named) for _ in "ab")
    assert one.json() == two.json()
    assert two.headers["idempotency-replayed"] == "true"
    other = client.post("/v1/batches", json={**body, "metadata": {}}, headers=named)
    assert other.json()["error"]["code"] == "idempotency_mismatch"
    assert len(client.get("/v1/batches").json()["data"]) == 1


def test_a_revoked_key_gets_no_more_answers(world: World, client: httpx.Client, echo: Echo) -> None:
    echo.pause_s = 0.02
    key = world.new_key()
    with httpx.Client(
        base_url=client.base_url, headers={"Authorization": f"Bearer {key.key}"}
    ) as theirs:
        batch = started(theirs, jsonl([request(f"r{number}") for number in range(30)]))
        until(lambda: shown(theirs, batch)["request_counts"]["completed"] > 0)
    with world.database.transaction() as connection:
        keys.revoke(connection, key.id)
    done = ended(client, batch)
    assert done["request_counts"]["failed"] > 0
    assert {reason for _, reason in letters(world)} == {"wrong_key"}
    assert done["request_counts"]["completed"] + done["request_counts"]["failed"] == 30


def test_sampling_reaches_the_engine(client: httpx.Client, echo: Echo) -> None:
    ended(client, started(client, jsonl([request("a", seed=7, temperature=0.5, stop=["\n"])])))
    [asked] = echo.asked
    assert isinstance(asked, GenerateRequest)
    assert (asked.sampling.seed, asked.sampling.temperature) == (7, 0.5)
    assert asked.sampling.stop == ("\n",)


def test_the_metrics_tell_of_batches_and_dead_letters(world: World, client: httpx.Client) -> None:
    ended(client, started(client, jsonl([request("a"), request("b", model="nobody")])))
    with world.database.transaction() as connection:
        watcher = keys.create(connection, "prometheus", "ops", scopes=["metrics"])
    text = client.get("/metrics", headers={"Authorization": f"Bearer {watcher.key}"}).text
    for line in (
        'trimtab_batch_lines_total{gateway="PID",outcome="answered"} 1',
        'trimtab_batch_lines_total{gateway="PID",outcome="model_not_found"} 1',
        'trimtab_batches{gateway="PID",status="completed"} 1',
        'trimtab_dead_letters{gateway="PID",source="batch",reason="model_not_found"',
        'trimtab_requests_in_flight{gateway="PID"} 0',
    ):
        pid = text.split('gateway="')[1].split('"')[0]
        assert line.replace("PID", pid) in text


def test_a_beat_of_leases_outlives_a_fault_of_ours(
    world: World, echo: Echo, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(worker, "BEAT_S", 0.01)
    beats: list[int] = []

    def extend(*_: Any) -> None:
        beats.append(1)
        if len(beats) == 1:
            raise ValueError("a prompt")

    monkeypatch.setattr(worker, "_extend", extend)

    async def go() -> None:
        working = app_with(world, echo).state.worker
        working._ending = "token"
        beating = asyncio.create_task(working._beat())
        async with asyncio.timeout(10):
            while len(beats) < 2:
                await asyncio.sleep(0.01)
        beating.cancel()

    asyncio.run(go())
    assert "leases could not be extended: ValueError" in caplog.text
    assert "a prompt" not in caplog.text
