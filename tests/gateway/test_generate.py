"""Answers over HTTP, with the engine of these tests: fields, limits and what clients may ask."""

import json

import httpx
import pytest

from tests.gateway.echo import RUNTIME, Echo
from tests.gateway.world import PRICE, PROMPT, World, app_with, listening, until
from trimtab.gateway import catalogue
from trimtab.inference import GenerateRequest
from trimtab.registry import deployments

ASK = {"model": "desk", "prompt": PROMPT}


def asked(echo: Echo) -> GenerateRequest:
    request = echo.asked[-1]
    assert isinstance(request, GenerateRequest)
    return request


def test_an_answer_says_who_answered_and_what_it_cost(world: World, client: httpx.Client) -> None:
    ids = {"trace_id": "t-1", "session_id": "s-1", "user_id": "u-1"}
    response = client.post("/v1/generate", json={**ASK, **ids, "max_tokens": 16})
    assert response.status_code == 200
    answer = response.json()
    latency, request_id = answer.pop("latency_ms"), answer.pop("id")
    cost = PRICE.of(world.prompt_tokens, 5)
    assert answer == {
        **ids,
        "model": "desk",
        "model_version": world.adapter.hash,
        "runtime": RUNTIME.name,
        "tier": "adapter",
        "degraded": False,
        "degraded_reason": None,
        "text": "yes " * 5,
        "finish_reason": "stop",
        "tokens_used": world.prompt_tokens + 5,
        "usage": {"prompt": world.prompt_tokens, "completion": 5, "cached": 0},
        "cost_usd": cost / 1e9,
    }
    [logged] = world.log()
    assert (logged.id, logged.status, logged.deployment) == (request_id, 200, "desk")
    assert logged.latency_ms == pytest.approx(latency, abs=0.001)
    assert (logged.cost_nano, world.spent_for(logged)) == (cost, cost)


@pytest.mark.parametrize("characters", [8, 20, 64])
def test_a_version_is_asked_by_its_hash_or_the_start_of_it(
    world: World, client: httpx.Client, characters: int
) -> None:
    answer = client.post("/v1/generate", json={**ASK, "model": world.base.hash[:characters]}).json()
    assert (answer["model_version"], answer["tier"]) == (world.base.hash, "base")
    assert world.log()[-1].deployment is None


def test_messages_are_the_same_as_a_prompt_and_the_versions_system_goes_before(
    client: httpx.Client, echo: Echo
) -> None:
    client.post("/v1/generate", json=ASK)
    by_prompt = asked(echo).prompt
    turn = {"role": "user", "content": PROMPT}
    client.post("/v1/generate", json={"model": "desk", "messages": [turn]})
    assert asked(echo).prompt == by_prompt
    system = {"role": "system", "content": "Answer with one word."}
    client.post("/v1/generate", json={"model": "desk", "messages": [system, turn]})
    assert asked(echo).prompt == by_prompt
    other = {"role": "system", "content": "Be rude."}
    client.post("/v1/generate", json={"model": "desk", "messages": [other, turn]})
    assert asked(echo).prompt != by_prompt


def test_sampling_reaches_the_engine(client: httpx.Client, echo: Echo) -> None:
    sampling = {"temperature": 0.7, "top_p": 0.9, "top_k": 5, "seed": 3, "stop": ["\n"]}
    client.post("/v1/generate", json={**ASK, **sampling, "max_tokens": 3})
    got = asked(echo).sampling
    assert (got.max_tokens, got.temperature, got.top_p, got.top_k, got.seed, got.stop) == (
        *(3, 0.7, 0.9, 5, 3),
        ("\n",),
    )


def test_all_that_can_be_asked_reaches_the_engine(client: httpx.Client, echo: Echo) -> None:
    more = {
        "stop": "\n" * 1024,
        "min_p": 0.2,
        "repetition_penalty": 1.5,
        "presence_penalty": 0.25,
        "frequency_penalty": -0.5,
        "stop_token_ids": [7, 8],
        "top_logprobs": 3,
        "logprobs": True,
        "deterministic": True,
    }
    answer = client.post("/v1/generate", json={**ASK, **more}).json()
    got = asked(echo).sampling
    assert (got.stop, got.min_p, got.repetition_penalty) == (("\n" * 1024,), 0.2, 1.5)
    assert (got.presence_penalty, got.frequency_penalty) == (0.25, -0.5)
    assert (got.stop_tokens, got.top_logprobs, got.deterministic) == ((7, 8), 3, True)
    assert [one["logprob"] for one in answer["logprobs"]] == [-0.5] * 5


def test_a_schema_keeps_the_order_of_its_properties(client: httpx.Client, echo: Echo) -> None:
    schema = {"type": "object", "properties": {"b": {"type": "integer"}, "a": {}}}
    client.post("/v1/generate", json={**ASK, "json_schema": schema})
    assert asked(echo).sampling.schema == json.dumps(schema)


def test_several_answers_stand_beside_the_first(
    world: World, client: httpx.Client, echo: Echo
) -> None:
    answer = client.post("/v1/generate", json={**ASK, "n": 2, "max_tokens": 3, "seed": 4}).json()
    assert [one["text"] for one in answer["choices"]] == ["yes " * 3] * 2
    assert (answer["text"], answer["finish_reason"]) == ("yes " * 3, "length")
    assert answer["usage"] == {"prompt": world.prompt_tokens, "completion": 6, "cached": 0}
    assert world.account().held_nano == 0


def test_one_of_several_answers_that_fails_ends_them_all(
    world: World, client: httpx.Client, echo: Echo
) -> None:
    echo.die_after = 2
    answer = client.post("/v1/generate", json={**ASK, "n": 3, "fallback": False})
    assert (answer.status_code, echo.running) == (503, 0)
    assert world.account().held_nano == 0


@pytest.mark.parametrize(
    ("more", "detail"),
    [
        ({"n": 9}, "n: input should be less than or equal to 8"),
        ({"top_logprobs": 2}, "top_logprobs go with logprobs"),
        ({"json_schema": {}, "stop": ["x"]}, "leave out stop"),
        ({"json_schema": "object"}, "json_schema: input should be a valid dictionary"),
        ({"stop": ["x" * 1025]}, "stop.0: string should have at most 1024 characters"),
        ({"repetition_penalty": 0}, "repetition_penalty: input should be greater than 0"),
    ],
)
def test_what_does_not_go_together_is_refused(
    client: httpx.Client, more: dict[str, object], detail: str
) -> None:
    answer = client.post("/v1/generate", json={**ASK, **more})
    assert answer.status_code == 422
    assert detail in answer.json()["detail"]


def test_the_default_length_gives_way_to_the_context(
    world: World, client: httpx.Client, echo: Echo, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(catalogue, "ABLE_S", 0.0)  # no real engine's context changes
    client.post("/v1/generate", json=ASK)
    assert asked(echo).sampling.max_tokens == 8
    echo.context = world.prompt_tokens + 3
    client.post("/v1/generate", json=ASK)
    assert asked(echo).sampling.max_tokens == 3


@pytest.mark.parametrize(("max_tokens", "field"), [(4, "max_tokens"), (None, "prompt")])
def test_what_passes_the_context_is_refused_with_the_numbers(
    world: World, client: httpx.Client, echo: Echo, max_tokens: int | None, field: str
) -> None:
    room = 3 if max_tokens else 0
    echo.context = world.prompt_tokens + room
    body = {**ASK, **({"max_tokens": max_tokens} if max_tokens else {})}
    answer = client.post("/v1/generate", json=body)
    assert (answer.status_code, answer.json()["code"]) == (422, "too_long")
    assert answer.json()["detail"] == (
        f"{field}: {world.prompt_tokens} tokens of prompt and {max_tokens or 1} of completion "
        f"pass the context of {echo.context}"
    )
    assert echo.asked == []
    assert world.account().spent_nano == 0


def test_a_promotion_is_followed(world: World, client: httpx.Client) -> None:
    client.post("/v1/generate", json=ASK)
    with world.database.transaction() as connection:
        deployments.rollback(connection, "desk", 3, "worse", {})

    def base_answers() -> bool:
        answer = client.post("/v1/generate", json=ASK).json()
        return bool(answer["model_version"] == world.base.hash)

    until(base_answers, seconds=2.0)


def test_every_request_has_an_id_of_its_own(client: httpx.Client) -> None:
    ids = {client.post("/v1/generate", json=ASK).json()["id"] for _ in range(3)}
    assert len(ids) == 3


def test_words_and_secrets_stay_out_of_the_log(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    echo = Echo(die_after=1)
    with caplog.at_level("DEBUG"), listening(app_with(world, echo), world.key.key) as client:
        client.post("/v1/generate", json={**ASK, "prompt": "my-secret-prompt"})
        client.post("/v1/generate", json={"model": "desk", "prompt": 7, "x": "my-secret-prompt"})
    assert "engine_unavailable" in caplog.text
    # What the client of this test logs about its own requests is not the gateway's.
    ours = [record.getMessage() for record in caplog.records if "http" not in record.name]
    assert not any("my-secret" in line or world.key.key in line for line in ours)
