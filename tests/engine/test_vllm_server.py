"""The real thing: a vLLM server started from its own environment, and torn down with it.

Run by `make test-vllm`, which installs vLLM apart from this environment; needs minutes.
"""

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from tests.deploy.world import World, build_world
from tests.engine.reference import Reference
from tests.gateway.world import PRICE, PROMPT, app_with, listening, until
from tests.gateway.world import build_world as gateway_world
from tests.serving import eventually
from tests.tiny import build_adapter, build_base
from trimtab.deploy.package import files_of
from trimtab.deploy.verify import said_of, verify
from trimtab.engine.local import LocalEngine
from trimtab.engine.wire.remote import RemoteEngine
from trimtab.errors import EngineUnavailable, IdentityError
from trimtab.inference import (
    Completion,
    GenerateRequest,
    Sampling,
    Score,
    ScoreRequest,
    VersionFiles,
    complete,
)

ENVIRONMENT = os.environ.get("TRIMTAB_TEST_VLLM", "")
pytestmark = pytest.mark.skipif(
    not ENVIRONMENT, reason="no vLLM server is here: make test-vllm installs and asks one"
)

PROMPTS = [(17, 40, 5, 99), (250, 31, 7, 8, 60, 61, 62, 90, 14), tuple(range(100, 180))]
ENDS = ((7, 8, 9), (), (250,))
NAMES = ("base", "red", "blue")
START_S = 590


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With heads of a width that vLLM's attention knows."""
    return build_base(tmp_path_factory.mktemp("vllm") / "base", hidden=128, heads=2, kv_heads=2)


@pytest.fixture(scope="module")
def adapters(base: Path) -> dict[str, Path]:
    return {
        "red": build_adapter(base.parent / "red", base, seed=1, rank=4),
        "blue": build_adapter(base.parent / "blue", base, seed=2, rank=7, alpha=21),
    }


@pytest.fixture(scope="module")
def process(base: Path) -> Iterator[subprocess.Popen[str]]:
    """Our engine process, and vLLM as its child."""
    where = ["--socket", str(base.parent / "s"), "--base", str(base), "--vllm-env", ENVIRONMENT]
    with subprocess.Popen(
        [sys.executable, "-m", "trimtab.engine.process", *where], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        yield process
        process.kill()


@pytest.fixture
def engine(process: subprocess.Popen[str], base: Path) -> RemoteEngine:
    return RemoteEngine(base.parent / "s")


def files(base: Path, name: str, adapter: Path | None) -> VersionFiles:
    return VersionFiles(name, base, adapter, base, ())


@pytest.mark.timeout(START_S)
def test_it_says_what_transformers_says_with_versions_mixed(
    engine: RemoteEngine, base: Path, adapters: dict[str, Path]
) -> None:
    async def ask() -> tuple[list[Completion], list[list[Score]]]:
        for name in NAMES:
            await engine.load(files(base, name, adapters.get(name)))
        asked = [(name, prompt) for name in NAMES for prompt in PROMPTS]
        sampling = Sampling(max_tokens=8)
        answers = await asyncio.gather(
            *(
                complete(engine, GenerateRequest(name, prompt, sampling, f"g{i}"))
                for i, (name, prompt) in enumerate(asked)
            )
        )
        scores = await asyncio.gather(
            *(
                engine.score(ScoreRequest(name, prompt, ENDS, f"s{i}"))
                for i, (name, prompt) in enumerate(asked)
            )
        )
        return answers, scores

    answers, scores = asyncio.run(ask())
    told = iter(zip(answers, scores, strict=True))
    exact = (asyncio.run(engine.capabilities())).runtime.dtype == "float32"
    for name in NAMES:
        reference = Reference(base, adapters.get(name))
        for prompt in PROMPTS:
            answer, rows = next(told)
            if exact:
                said = reference.greedy(prompt, 8, stop=-1)
                assert answer.tokens == said.tokens
                assert answer.logprobs == pytest.approx(said.logprobs, abs=1e-3)
            for end, row in zip(ENDS, rows, strict=True):
                expected = reference.score(prompt, end)
                assert row.logprobs == pytest.approx(expected, abs=1e-3 if exact else 0.2)


def test_a_second_time_the_prompt_is_found_in_the_cache(engine: RemoteEngine, base: Path) -> None:
    async def ask() -> tuple[int, int]:
        await engine.load(files(base, "base", None))
        prompt, sampling = tuple(range(10, 300)), Sampling(max_tokens=2, seed=1)
        first, second = [
            await complete(engine, GenerateRequest("base", prompt, sampling, f"c{i}"))
            for i in range(2)
        ]
        return first.usage.cached, second.usage.cached

    cold, warm = asyncio.run(ask())
    assert cold < 16 <= warm


def test_sampling_and_stop_strings_reach_it(engine: RemoteEngine, base: Path) -> None:
    async def ask(sampling: Sampling) -> Completion:
        return await complete(engine, GenerateRequest("base", PROMPTS[0], sampling, "x"))

    asyncio.run(engine.load(files(base, "base", None)))
    seeded = Sampling(max_tokens=12, temperature=1.0, seed=5, top_k=50, top_p=0.95, min_p=0.001)
    assert asyncio.run(ask(seeded)).tokens == asyncio.run(ask(seeded)).tokens
    told = asyncio.run(ask(Sampling(max_tokens=4, top_logprobs=3)))
    assert [len(row) for row in told.top] == [3] * 4
    text = asyncio.run(ask(Sampling(max_tokens=12))).text
    stopped = asyncio.run(ask(Sampling(max_tokens=12, stop=(text[2:4],))))
    assert (stopped.text, stopped.finish_reason) == (text[: text.index(text[2:4])], "stop")


def test_several_answers_to_one_prompt_are_streamed_side_by_side(
    engine: RemoteEngine, base: Path, adapters: dict[str, Path], tmp_path: Path
) -> None:
    """Through the gateway: each is what its seed gives alone, and who leaves ends them all."""
    world = gateway_world(tmp_path, base)
    ask = {"model": "desk", "prompt": PROMPT, "max_tokens": 12, "temperature": 1.0, "seed": 7}
    with listening(app_with(world, engine, adapters["red"]), world.key.key) as client:
        alone = [client.post("/v1/generate", json={**ask, "seed": 7 + i}).json() for i in range(3)]
        lines = client.post("/v1/generate", json={**ask, "n": 3, "stream": True}).text.splitlines()
        *pieces, done = [json.loads(line[6:]) for line in lines if line.startswith("data: ")]
        for index, told in enumerate(alone):
            said = "".join(piece["text"] for piece in pieces if piece["index"] == index)
            assert said == done["choices"][index]["text"] == told["text"]
        assert len({told["text"] for told in alone}) == 3
        assert done["usage"]["completion"] == sum(told["usage"]["completion"] for told in alone)
        logged = len(world.log())
        body = {**ask, "n": 3, "max_tokens": 400, "stream": True}
        with client.stream("POST", "/v1/generate", json=body) as response:
            next(response.iter_text())
        until(lambda: len(world.log()) == logged + 1)
        left = world.log()[-1]
        assert left.completion_tokens < 3 * 400
        assert world.spent_for(left) == PRICE.of(world.prompt_tokens, left.completion_tokens)
        assert world.account().held_nano == 0


def test_an_adapter_comes_and_goes_while_it_serves(
    engine: RemoteEngine, base: Path, adapters: dict[str, Path]
) -> None:
    async def ask() -> None:
        for _ in range(2):
            await engine.load(files(base, "again", adapters["red"]))
            request = GenerateRequest("again", PROMPTS[0], Sampling(max_tokens=2), "a")
            await complete(engine, request)
            await engine.unload("again")
        with pytest.raises(IdentityError):
            await engine.load(files(base, "lost", base.parent / "lost"))

    asyncio.run(ask())


def test_verification_through_it_takes_the_honest_and_refuses_the_others(
    engine: RemoteEngine, base: Path, tmp_path: Path
) -> None:
    """The merged copy is the built-in engine's: vLLM has none."""
    honest = build_world(base, tmp_path / "honest")
    idle = build_world(base, tmp_path / "idle", spread=0.0)
    ours = LocalEngine(base)

    async def judge(world: World, folder: Path) -> str:
        package = world.package(folder)
        loaded = files_of(world.spec, base, package)
        said = await said_of(package, world.base_files(), ours)
        named = replace(world.base_files(), proof=said.proof())
        found = await verify(engine, package, loaded, named, reference=ours)
        await engine.load(loaded)
        await engine.load(named)
        return "" if found.ok else found.reason

    try:
        assert asyncio.run(judge(honest, tmp_path / "1")) == ""
        assert asyncio.run(judge(idle, tmp_path / "2")).startswith("the adapter does nothing")
    finally:
        ours.close()

    async def planted() -> None:
        """A no-op adapter under the name of the honest version: its probes give it away."""
        package = honest.package(tmp_path / "3")
        loaded = files_of(honest.spec, base, package)
        await engine.unload(loaded.version)
        with pytest.raises(IdentityError, match="does not answer as itself"):
            await engine.load(replace(loaded, adapter=idle.adapter))

    asyncio.run(planted())


def test_nothing_of_it_outlives_our_process(
    process: subprocess.Popen[str], engine: RemoteEngine, base: Path
) -> None:
    family = psutil.Process(process.pid).children(recursive=True)
    assert any("vllm" in " ".join(one.cmdline()) for one in family)
    process.kill()
    process.wait()
    eventually(lambda: not any(map(psutil.Process.is_running, family)), 60)
    with pytest.raises(EngineUnavailable):
        asyncio.run(engine.capabilities())
