import httpx

from tests.gateway.echo import Echo
from tests.gateway.world import PROMPT, World

ASK = {"model": "desk", "prompt": PROMPT, "completions": ["yes", "no, never"]}


def test_each_completion_has_its_log_probability(world: World, client: httpx.Client) -> None:
    answer = client.post("/v1/score", json=ASK).json()
    for found in answer["scores"]:
        assert found["token_log_probabilities"] == [-0.25] * found["tokens"]
        assert found["log_probability"] == -0.25 * found["tokens"]
    total = sum(found["tokens"] for found in answer["scores"])
    assert answer["usage"] == {"prompt": world.prompt_tokens, "completion": total, "cached": 0}
    assert (answer["model_version"], answer["tier"]) == (world.adapter.hash, "adapter")
    [logged] = world.log()
    assert (logged.route, logged.id, logged.completion_tokens) == ("score", answer["id"], total)


def test_a_completion_that_passes_the_context_is_refused(
    world: World, client: httpx.Client, echo: Echo
) -> None:
    echo.context = world.prompt_tokens + 2
    answer = client.post("/v1/score", json=ASK)
    assert (answer.status_code, answer.json()["code"]) == (422, "too_long")
    assert answer.json()["detail"].startswith("completions: ")


def test_a_field_of_the_other_route_is_unknown_here(client: httpx.Client) -> None:
    answer = client.post("/v1/score", json={**ASK, "max_tokens": 4})
    assert answer.json()["detail"] == "max_tokens: unknown field"


def test_an_empty_completion_is_refused(client: httpx.Client) -> None:
    answer = client.post("/v1/score", json={**ASK, "completions": ["yes", ""]})
    assert answer.status_code == 422
    assert answer.json()["detail"].startswith("completions.1: ")


def test_an_engine_that_dies_costs_nothing(world: World, client: httpx.Client, echo: Echo) -> None:
    echo.die_after = 0
    answer = client.post("/v1/score", json=ASK)
    assert (answer.status_code, answer.json()["code"]) == (503, "engine_unavailable")
    assert (world.account().spent_nano, world.account().held_nano) == (0, 0)
