"""The whole way: HTTP, gateway, socket, engine process, model and back."""

import json
import math
import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.engine.processes import engine_process
from tests.gateway.world import PRICE, PROMPT, World, app_with, listening, until
from tests.tiny import build_adapter, build_base
from trimtab.engine.wire.remote import RemoteEngine

ASK = {"model": "desk", "prompt": PROMPT, "max_tokens": 12}


@pytest.fixture(scope="module")
def base_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With weights, unlike the other tests' base."""
    return build_base(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def adapter_folder(tmp_path_factory: pytest.TempPathFactory, base_folder: Path) -> Path:
    return build_adapter(tmp_path_factory.mktemp("adapter"), base_folder)


@pytest.fixture(scope="module")
def engine_socket(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("run") / "engine.sock"


@pytest.fixture(scope="module")
def engine(engine_socket: Path, base_folder: Path) -> Iterator["subprocess.Popen[str]"]:
    with engine_process(base_folder, engine_socket) as process:
        yield process


@pytest.fixture
def real(
    world: World, engine: "subprocess.Popen[str]", engine_socket: Path, adapter_folder: Path
) -> Iterator[httpx.Client]:
    """Speaks to a gateway in front of the engine process."""
    app = app_with(world, RemoteEngine(engine_socket), adapter_folder)
    with listening(app, world.key.key) as client:
        yield client


def test_base_and_adapter_answer_the_same_prompt_each_in_its_own_way(
    world: World, real: httpx.Client
) -> None:
    adapter = real.post("/v1/generate", json=ASK).json()
    base = real.post("/v1/generate", json={**ASK, "model": world.base.hash}).json()
    assert (adapter["tier"], base["tier"]) == ("adapter", "base")
    assert adapter["text"] != base["text"]
    assert adapter["runtime"] == base["runtime"]
    assert adapter["runtime"].startswith("trimtab-")
    assert real.post("/v1/generate", json=ASK).json()["text"] == adapter["text"]


def test_a_stream_says_the_same_as_a_whole_answer(real: httpx.Client) -> None:
    whole = real.post("/v1/generate", json=ASK).json()
    text = real.post("/v1/generate", json={**ASK, "stream": True}).text
    data = [json.loads(line[6:]) for line in text.splitlines() if line.startswith("data: ")]
    assert "".join(piece["text"] for piece in data[:-1]) == data[-1]["text"] == whole["text"]
    assert data[-1]["usage"]["completion"] == whole["usage"]["completion"]


def test_what_a_prompt_has_in_common_with_an_earlier_one_is_told(
    world: World, real: httpx.Client
) -> None:
    """By version: the base has read nothing of what its adapter has."""
    ask = {**ASK, "prompt": "The same long beginning of many prompts. " * 4, "max_tokens": 2}
    used = [real.post("/v1/generate", json=ask).json()["usage"] for _ in range(2)]
    assert used[0]["cached"] + 16 <= used[1]["cached"] < used[1]["prompt"]
    base = real.post("/v1/generate", json={**ask, "model": world.base.hash}).json()["usage"]
    assert base["cached"] <= used[0]["cached"]
    several = real.post("/v1/generate", json={**ask, "n": 3}).json()["usage"]
    assert (several["prompt"], several["completion"]) == (used[0]["prompt"], 6)
    assert several["cached"] == used[1]["cached"]


def test_what_is_known_of_a_scored_prompt_is_told(real: httpx.Client) -> None:
    prompt, ends = "Another beginning that is long. " * 4, ["yes", "no, never", "perhaps"]
    ask = {"model": "desk", "prompt": prompt, "completions": ends}
    used = [real.post("/v1/score", json=ask).json()["usage"] for _ in range(2)]
    assert used[0]["cached"] + 16 <= used[1]["cached"] < used[1]["prompt"]


def test_scores_are_log_probabilities(world: World, real: httpx.Client) -> None:
    body = {"model": "desk", "prompt": PROMPT, "completions": ["yes", "no, never"]}
    answer = real.post("/v1/score", json=body).json()
    for score in answer["scores"]:
        assert math.isclose(score["log_probability"], sum(score["token_log_probabilities"]))
        assert all(token < 0 for token in score["token_log_probabilities"])
    base = real.post("/v1/score", json={**body, "model": world.base.hash}).json()
    assert base["scores"] != answer["scores"]


def test_the_context_of_the_model_is_the_limit(real: httpx.Client) -> None:
    answer = real.post("/v1/generate", json={**ASK, "max_tokens": 600})
    assert answer.status_code == 422
    assert answer.json()["detail"].endswith("pass the context of 512")


def test_a_client_that_vanishes_leaves_the_engine_free(world: World, real: httpx.Client) -> None:
    body = {**ASK, "max_tokens": 400, "stream": True}
    with real.stream("POST", "/v1/generate", json=body) as response:
        next(response.iter_text())
    until(lambda: len(world.log()) == 1)
    [logged] = world.log()
    cost = PRICE.of(world.prompt_tokens, logged.completion_tokens)
    assert logged.cost_nano == world.spent_for(logged) == cost
    assert world.account().held_nano == 0
    assert real.post("/v1/generate", json=ASK).status_code == 200


def test_several_answers_of_a_client_that_vanishes_leave_the_engine_free(
    world: World, real: httpx.Client
) -> None:
    """Streamed side by side they are the answers that each of their seeds gives alone."""
    some = {**ASK, "temperature": 1.0, "seed": 7, "n": 3}
    whole = real.post("/v1/generate", json=some).json()["choices"]
    lines = real.post("/v1/generate", json={**some, "stream": True}).text.splitlines()
    data = [json.loads(line[6:]) for line in lines if line.startswith("data: ")]
    for index in range(3):
        told = "".join(piece["text"] for piece in data[:-1] if piece["index"] == index)
        assert told == whole[index]["text"] == data[-1]["choices"][index]["text"]
    logged = len(world.log())
    body = {**some, "max_tokens": 400, "stream": True}
    with real.stream("POST", "/v1/generate", json=body) as response:
        next(response.iter_text())
    until(lambda: len(world.log()) == logged + 1)
    assert world.account().held_nano == 0
    assert real.post("/v1/generate", json=ASK).status_code == 200


def test_an_engine_that_is_killed_in_the_middle(
    world: World, tmp_path: Path, adapter_folder: Path
) -> None:
    where = tmp_path / "engine.sock"
    body = {**ASK, "max_tokens": 400, "stream": True}
    with (
        engine_process(world.base_folder, where) as process,
        listening(app_with(world, RemoteEngine(where), adapter_folder), world.key.key) as client,
    ):
        with client.stream("POST", "/v1/generate", json=body) as response:
            pieces = response.iter_text()
            text = next(pieces)
            process.kill()
            text += "".join(pieces)
        assert '"code":"engine_unavailable"' in text
        after = client.post("/v1/generate", json=ASK)
        assert (after.status_code, after.json()["code"]) == (503, "engine_unavailable")
        assert client.get("/readyz").status_code == 503
    first, second = world.log()
    assert (first.status, first.error_code) == (503, "engine_unavailable")
    assert first.cost_nano == PRICE.of(world.prompt_tokens, first.completion_tokens) > 0
    assert (second.status, second.cost_nano, world.account().held_nano) == (503, 0, 0)
