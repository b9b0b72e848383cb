"""Who answers when something fails, and what the client hears of it."""

import asyncio
import threading
import time
from collections.abc import AsyncGenerator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import httpx
import pytest
from anyio import CapacityLimiter

from tests.gateway.echo import Echo
from tests.gateway.test_stream import events
from tests.gateway.world import PRICE, PROMPT, World, app_with, listening, until
from trimtab.errors import (
    EngineOverloaded,
    EngineUnavailable,
    IdentityError,
    RequestRefused,
    TrimtabError,
)
from trimtab.gateway import catalogue, desk, generation, keys, tables
from trimtab.gateway.bodies import GenerateBody
from trimtab.gateway.keys import Limits
from trimtab.gateway.tiers import answering, breaker, retry
from trimtab.gateway.tiers.policies import Policy
from trimtab.inference import Capabilities, Chunk, GenerateRequest, VersionFiles
from trimtab.ledger.money import Price
from trimtab.ledger.prices import set_price
from trimtab.store.rows import insert_or_update

ASK = {"model": "desk", "prompt": PROMPT, "max_tokens": 5}


@dataclass
class Moody(Echo):
    """Fails as it is told, by version: `errors` are raised one an attempt, the last one for good;
    a version in `silent` never says a word."""

    errors: dict[str, list[TrimtabError]] = field(default_factory=dict)
    unloadable: dict[str, TrimtabError] = field(default_factory=dict)
    silent: set[str] = field(default_factory=set)
    attempts: list[str] = field(default_factory=list)

    async def load(self, files: VersionFiles) -> None:
        if files.version in self.unloadable:
            raise self.unloadable[files.version]
        await super().load(files)

    async def generate(self, request: GenerateRequest) -> AsyncGenerator[Chunk, None]:
        self.attempts.append(request.version)
        if errors := self.errors.get(request.version):
            raise errors.pop(0) if len(errors) > 1 else errors[0]
        self.pause_s = 60.0 if request.version in self.silent else 0.0
        async for chunk in super().generate(request):
            yield chunk


GONE = EngineUnavailable("/run/engine.sock: gone")


@pytest.fixture
def echo() -> Moody:
    return Moody()


def declared(world: World, template: str | None = None, deadline_s: float = 120.0) -> None:
    policy = Policy("desk", template, deadline_s)
    row = {"deployment": "desk", "safe_template": template, "deadline_s": policy.deadline_s}
    with world.database.transaction() as connection:
        insert_or_update(connection, tables.policies, row, key=["deployment"])


def test_a_failed_attempt_is_repeated_once(world: World, client: httpx.Client, echo: Moody) -> None:
    failing = iter([GONE])
    original = echo.generate

    async def once(request: GenerateRequest) -> AsyncGenerator[Chunk, None]:
        for error in failing:
            echo.attempts.append(request.version)
            raise error
        async for chunk in original(request):
            yield chunk

    echo.generate = once  # type: ignore[method-assign]
    answer = client.post("/v1/generate", json=ASK).json()
    assert (answer["tier"], answer["degraded"], answer["degraded_reason"]) == (
        "adapter",
        False,
        None,
    )
    assert echo.attempts == [world.adapter.hash] * 2
    [logged] = world.log()
    assert (logged.attempts, logged.cost_nano) == (2, PRICE.of(world.prompt_tokens, 5))


@pytest.mark.parametrize("streamed", [True, False])
def test_the_base_answers_for_its_adapter_and_says_so(
    world: World, client: httpx.Client, echo: Moody, streamed: bool
) -> None:
    echo.errors[world.adapter.hash] = [GONE]
    response = client.post("/v1/generate", json={**ASK, "stream": streamed})
    answer = events(response.text)[-1][1] if streamed else response.json()
    assert (answer["tier"], answer["model_version"]) == ("base", world.base.hash)
    assert (answer["degraded"], answer["degraded_reason"]) == (True, "adapter: engine_unavailable")
    assert echo.attempts == [world.adapter.hash] * 2 + [world.base.hash]
    [logged] = world.log()
    assert (logged.tier, logged.degraded, logged.status) == ("base", True, 200)
    assert (logged.asked_version, logged.model_version) == (world.adapter.hash, world.base.hash)
    assert logged.degraded_reason == "adapter: engine_unavailable"
    assert round(answer["cost_usd"] * 1e9) == logged.cost_nano == world.spent_for(logged)
    assert world.account().held_nano == 0


def test_an_adapter_that_is_not_what_was_registered_falls_back(
    world: World, client: httpx.Client, echo: Moody
) -> None:
    echo.unloadable[world.adapter.hash] = IdentityError("probes differ")
    answer = client.post("/v1/generate", json=ASK).json()
    assert (answer["tier"], answer["degraded_reason"]) == ("base", "adapter: identity_mismatch")


def test_the_tier_that_answers_is_paid_at_its_own_price(
    world: World, client: httpx.Client, echo: Moody
) -> None:
    cheap = Price(1, 2)
    with world.database.transaction() as connection:
        set_price(connection, world.base.hash, cheap)
    echo.errors[world.adapter.hash] = [GONE]
    answer = client.post("/v1/generate", json=ASK).json()
    assert round(answer["cost_usd"] * 1e9) == cheap.of(world.prompt_tokens, 5)
    assert world.account().spent_nano == cheap.of(world.prompt_tokens, 5)


@pytest.mark.parametrize("streamed", [True, False])
def test_the_safe_template_always_answers_and_costs_nothing(
    world: World, client: httpx.Client, echo: Moody, streamed: bool
) -> None:
    declared(world, "Sorry $user_id, $deployment rests ($reason). It costs $$0.")
    echo.errors = {world.adapter.hash: [GONE], world.base.hash: [GONE]}
    body = {**ASK, "stream": streamed, "user_id": "u-1"}
    response = client.post("/v1/generate", json=body)
    assert response.status_code == 200
    found = events(response.text) if streamed else [("done", response.json())]
    answer = found[-1][1]
    why = "adapter: engine_unavailable; base: engine_unavailable"
    assert answer["text"] == f"Sorry u-1, desk rests ({why}). It costs $0."
    if streamed:
        assert found[0] == ("token", {"text": answer["text"]})
    assert (answer["tier"], answer["degraded"], answer["finish_reason"]) == (
        *("safe_template", True),
        "stop",
    )
    assert (answer["model_version"], answer["runtime"], answer["cost_usd"]) == (None, None, 0)
    [logged] = world.log()
    assert (logged.status, logged.tier, logged.cost_nano) == (200, "safe_template", 0)
    assert (world.account().spent_nano, world.account().held_nano) == (0, 0)


@pytest.mark.parametrize(
    ("schema", "status"),
    [
        ({"type": "object", "properties": {"b": {"type": "integer"}, "a": {}}}, 200),
        ({"type": "object", "properties": {"a": {"enum": ["x"]}}}, 503),
        ({"not": {}}, 422),
    ],
)
def test_the_template_is_an_error_where_it_does_not_satisfy_the_schema(
    world: World, client: httpx.Client, echo: Moody, schema: dict[str, object], status: int
) -> None:
    echo.errors = {version.hash: [GONE] for version in (world.adapter, world.base)}
    declared(world, '{"a": "later", "b": 2}')
    answer = client.post("/v1/generate", json={**ASK, "json_schema": schema})
    assert answer.status_code == status
    [logged] = world.log()
    assert (logged.status, logged.cost_nano) == (status, 0)
    assert (logged.tier == "safe_template") is (status == 200)


def test_the_template_answers_where_no_engine_can_even_be_reached(
    world: World, client: httpx.Client, echo: Moody
) -> None:
    declared(world, "Later.")
    echo.unloadable = {world.adapter.hash: GONE, world.base.hash: GONE}
    assert client.post("/v1/generate", json=ASK).json()["text"] == "Later."
    assert (world.account().spent_nano, world.account().held_nano) == (0, 0)


@pytest.mark.parametrize("by", ["fallback", "hash"])
def test_degradation_can_be_refused(
    world: World, client: httpx.Client, echo: Moody, by: str
) -> None:
    declared(world, "Later.")
    echo.errors[world.adapter.hash] = [GONE]
    more = {"fallback": False} if by == "fallback" else {"model": world.adapter.hash}
    answer = client.post("/v1/generate", json={**ASK, **more})
    assert (answer.status_code, answer.json()["code"]) == (503, "engine_unavailable")
    assert set(echo.attempts) == {world.adapter.hash}


def test_a_score_never_falls_back(world: World, client: httpx.Client, echo: Moody) -> None:
    declared(world, "Later.")
    echo.unloadable[world.adapter.hash] = GONE
    body = {"model": "desk", "prompt": PROMPT, "completions": ["yes"]}
    assert client.post("/v1/score", json=body).status_code == 503


def test_nothing_is_repeated_after_the_first_byte(
    world: World, client: httpx.Client, echo: Moody
) -> None:
    declared(world, "Later.")
    echo.die_after = 2
    found = events(client.post("/v1/generate", json={**ASK, "stream": True}).text)
    assert [event for event, _ in found] == ["token", "token", "error"]
    assert len(echo.attempts) == 1


def test_half_an_answer_that_nobody_saw_is_thrown_away_and_not_paid(
    world: World, client: httpx.Client, echo: Moody
) -> None:
    declared(world, "Later.")
    echo.die_after = 2
    answer = client.post("/v1/generate", json=ASK).json()
    assert (answer["text"], answer["cost_usd"]) == ("Later.", 0)
    assert world.account().spent_nano == 0


def test_what_an_attempt_made_before_it_died_is_not_billed_with_the_next_one(
    world: World, client: httpx.Client, echo: Moody
) -> None:
    """Nor is what its client asks again by itself: one hold, one settlement, one line."""
    dying = iter([2])
    original = echo.generate

    async def once(request: GenerateRequest) -> AsyncGenerator[Chunk, None]:
        echo.die_after = next(dying, None)
        async for chunk in original(request):
            yield chunk

    echo.generate = once  # type: ignore[method-assign]
    named = {**client.headers, "Idempotency-Key": "once"}
    first, again = (client.post("/v1/generate", json=ASK, headers=named) for _ in range(2))
    assert first.json()["text"] == "yes " * 5
    assert again.json() == first.json()
    assert echo.attempts == [world.adapter.hash] * 2
    [logged] = world.log()
    cost = PRICE.of(world.prompt_tokens, 5)
    assert (logged.attempts, logged.cost_nano, world.spent_for(logged)) == (2, cost, cost)
    assert (world.account().spent_nano, world.account().held_nano) == (cost, 0)


@pytest.mark.parametrize("error", [RequestRefused("never")])
def test_what_the_caller_got_wrong_is_no_reason_to_fall_back(
    world: World, client: httpx.Client, echo: Moody, error: TrimtabError
) -> None:
    declared(world, "Later.")
    echo.errors[world.adapter.hash] = [error]
    for _ in range(breaker.FAILURES + 1):
        assert client.post("/v1/generate", json=ASK).status_code == 422
    assert set(echo.attempts) == {world.adapter.hash}


def test_a_full_engine_is_not_asked_for_the_base_and_opens_no_breaker(
    world: World, client: httpx.Client, echo: Moody
) -> None:
    echo.errors[world.adapter.hash] = [EngineOverloaded("full")]
    for _ in range(breaker.FAILURES + 1):
        answer = client.post("/v1/generate", json=ASK)
        assert (answer.status_code, answer.json()["code"]) == (503, "overloaded")
        assert answer.headers["retry-after"] == "1"
    echo.errors[world.adapter.hash] = [EngineOverloaded("full", retry_s=6.2)]
    streamed = client.post("/v1/generate", json={**ASK, "stream": True})
    assert (streamed.status_code, streamed.headers["retry-after"]) == (503, "7")
    assert streamed.json()["code"] == "overloaded"
    echo.attempts.pop()
    assert echo.attempts == [world.adapter.hash] * (breaker.FAILURES + 1)
    declared(world, "Later.")
    assert client.get("/readyz").status_code == 200  # reads the policies anew
    answer = client.post("/v1/generate", json=ASK).json()
    assert (answer["tier"], answer["degraded_reason"]) == ("safe_template", "adapter: overloaded")


@pytest.mark.parametrize("streamed", [True, False])
def test_a_silent_engine_leaves_time_for_the_next_tier(
    world: World, client: httpx.Client, echo: Moody, streamed: bool
) -> None:
    declared(world, None, deadline_s=2.0)
    echo.silent.add(world.adapter.hash)
    response = client.post("/v1/generate", json={**ASK, "stream": streamed})
    answer = events(response.text)[-1][1] if streamed else response.json()
    assert (answer["tier"], answer["degraded_reason"]) == ("base", "adapter: timeout")
    assert 900 < answer["latency_ms"] < 2000


def test_the_deadline_is_one_for_all_tiers(world: World, client: httpx.Client, echo: Moody) -> None:
    declared(world, "Later.", deadline_s=1.0)
    echo.silent |= {world.adapter.hash, world.base.hash}
    answer = client.post("/v1/generate", json=ASK).json()
    assert (answer["tier"], answer["degraded_reason"]) == (
        "safe_template",
        "adapter: timeout; base: timeout",
    )
    assert answer["latency_ms"] < 1000
    assert echo.running == 0


def test_an_open_breaker_spares_the_engine(world: World, client: httpx.Client, echo: Moody) -> None:
    echo.errors[world.adapter.hash] = [GONE]
    for _ in range(10):
        client.post("/v1/generate", json=ASK)
    asked = echo.attempts.count(world.adapter.hash)
    assert asked == breaker.FAILURES
    answer = client.post("/v1/generate", json=ASK).json()
    assert (answer["tier"], answer["degraded_reason"]) == ("base", "adapter: breaker_open")
    alone = client.post("/v1/generate", json={**ASK, "fallback": False})
    assert alone.status_code == 503
    assert 1 <= int(alone.headers["retry-after"]) <= breaker.OPEN_S * 1.1
    assert echo.attempts.count(world.adapter.hash) == asked


def test_attempts_stay_within_the_retry_budget_when_everything_fails(
    world: World, echo: Moody, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Even without a breaker: 1.2 attempts a request and the store, and not one more."""
    monkeypatch.setattr(breaker, "FAILURES", 10**9)
    monkeypatch.setattr(retry, "BASE_S", 0.001)
    echo.errors = {world.adapter.hash: [GONE], world.base.hash: [GONE]}
    requests = 100
    with listening(app_with(world, echo), world.key.key) as client:
        statuses = {client.post("/v1/generate", json=ASK).status_code for _ in range(requests)}
    assert statuses == {503}
    assert len(echo.attempts) == sum(logged.attempts for logged in world.log())
    assert len(echo.attempts) <= 1.2 * requests + retry.STORE


@contextmanager
def opened(world: World, echo: Moody) -> Iterator[httpx.Client]:
    with listening(app_with(world, echo), world.key.key) as client:
        yield client


def test_a_breaker_closes_again_after_a_good_probe(
    world: World, echo: Moody, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(breaker, "OPEN_S", 0.3)
    monkeypatch.setattr(breaker, "JITTER", 0.0)
    echo.errors[world.adapter.hash] = [GONE]
    with opened(world, echo) as client:
        for _ in range(6):
            client.post("/v1/generate", json=ASK)
        del echo.errors[world.adapter.hash]
        tiers = []
        while "adapter" not in tiers:
            tiers.append(client.post("/v1/generate", json=ASK).json()["tier"])
            assert len(tiers) < 1000
        assert client.post("/v1/generate", json=ASK).json()["degraded"] is False


def test_a_silence_up_to_the_deadline_opens_the_breaker(
    world: World, client: httpx.Client, echo: Moody
) -> None:
    """Where nobody else could answer, the deadline alone ends it; it is the engine's all the
    same."""
    declared(world, None, deadline_s=0.2)
    echo.silent.add(world.adapter.hash)
    codes = [
        client.post("/v1/generate", json={**ASK, "fallback": False}).json()["code"]
        for _ in range(breaker.FAILURES + 1)
    ]
    assert codes == ["deadline_exceeded"] * breaker.FAILURES + ["engine_unavailable"]
    assert len(echo.attempts) == breaker.FAILURES


def test_a_timeout_without_leave_to_go_on_is_the_deadlines_and_no_fault_of_ours(
    world: World, client: httpx.Client, echo: Moody, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retry.RetryBudget, "spend", lambda _: False)
    declared(world, None, deadline_s=0.4)
    echo.silent.add(world.adapter.hash)
    answer = client.post("/v1/generate", json=ASK)
    assert (answer.status_code, answer.json()["code"]) == (504, "deadline_exceeded")


def test_an_engine_that_never_says_what_it_can_is_given_up_at_the_deadline(
    world: World, client: httpx.Client, echo: Moody, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Admission is a part of the way: its deadline is the same."""

    async def mute() -> Capabilities:
        await asyncio.sleep(60)
        raise AssertionError("nobody waits so long")

    monkeypatch.setattr(echo, "capabilities", mute)
    for template, status in ((None, 504), ("Later.", 200)):
        declared(world, template, deadline_s=0.4)
        time.sleep(catalogue.FRESH_S)
        for streamed in (False, True):
            answer = client.post("/v1/generate", json={**ASK, "stream": streamed})
            assert answer.status_code == status
    score = {"model": "desk", "prompt": PROMPT, "completions": ["yes"]}
    assert client.post("/v1/score", json=score).status_code == 504
    assert world.account().held_nano == world.account().spent_nano == 0


def test_a_client_that_leaves_between_two_attempts_leaves_no_probe_behind(
    world: World, echo: Moody, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A probe that nobody speaks for any more would shut the tier for ever."""
    permits: list[breaker.Permit] = []
    original = breaker.Breaker.allow

    def allow(self: breaker.Breaker) -> breaker.Permit | None:
        permit = original(self)
        permits.extend([permit] if permit else [])
        return permit

    monkeypatch.setattr(breaker.Breaker, "allow", allow)
    monkeypatch.setattr(answering, "backoff_s", lambda _: 5.0)
    echo.errors[world.adapter.hash] = [GONE]
    with listening(app_with(world, echo), world.key.key) as client:
        with pytest.raises(httpx.ReadTimeout):
            client.post("/v1/generate", json={**ASK, "fallback": False}, timeout=0.5)
        until(lambda: len(world.log()) == 1)
    assert len(permits) == 2
    assert all(permit.told for permit in permits)


def test_answers_of_a_template_count_against_the_limit_of_a_key(
    world: World, client: httpx.Client, echo: Moody
) -> None:
    declared(world, "Later.")
    echo.unloadable = {world.adapter.hash: GONE, world.base.hash: GONE}
    with world.database.transaction() as connection:
        limits = Limits(requests_per_minute=2)
        key = keys.create(connection, "limited", "somebody", limits=limits).key
    headers = {"Authorization": f"Bearer {key}"}
    answers = [client.post("/v1/generate", json=ASK, headers=headers) for _ in range(3)]
    assert [answer.status_code for answer in answers] == [200, 200, 429]
    assert [answer.json().get("text") for answer in answers] == ["Later.", "Later.", None]


def test_few_schemas_are_tried_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each trial may be a process that computes for seconds."""
    running: set[int] = set()
    most: list[int] = []

    def slow(schema: str, text: str) -> bool:
        me = threading.get_ident()
        running.add(me)
        most.append(len(running))
        time.sleep(0.02)
        running.discard(me)
        return True

    monkeypatch.setattr(generation, "satisfies", slow)
    body = GenerateBody.model_validate({**ASK, "json_schema": {"type": "object"}})

    async def go() -> None:
        threads, work = CapacityLimiter(desk.TRIALS), generation.Generation(body)
        await asyncio.gather(*(work.stands_in("{}", threads) for _ in range(6)))

    asyncio.run(go())
    assert max(most) == desk.TRIALS == 2
