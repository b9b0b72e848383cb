"""The engine over vLLM's routes, against a server that speaks them and computes with ours."""

import asyncio
import json
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing, asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.engine.conftest import VersionOf
from tests.engine.kinds import build_kind
from tests.engine.reference import Reference
from tests.engine.wire import KEY, VERSION, Vllm
from trimtab.engine.vllm import server as vllm_server
from trimtab.engine.vllm.engine import VllmEngine
from trimtab.engine.vllm.names import METHODS
from trimtab.engine.vllm.routes import Server
from trimtab.errors import (
    BaseError,
    EngineError,
    EngineOverloaded,
    EngineUnavailable,
    IdentityError,
    RequestRefused,
    TrimtabError,
    VersionNotLoaded,
)
from trimtab.inference import (
    Completion,
    GenerateRequest,
    Sampling,
    Score,
    ScoreRequest,
    VersionFiles,
    complete,
)

PROMPT, ENDS = (17, 40, 5, 99), ((7, 8, 9), (), (250,))


@pytest.fixture
def vllm(base: Path) -> Vllm:
    return Vllm(base)


@pytest.fixture
def url(vllm: Vllm) -> Iterator[str]:
    with vllm.listening() as url:
        yield url


@asynccontextmanager
async def opened(url: str, base: Path, **more: Any) -> AsyncIterator[VllmEngine]:
    engine = VllmEngine(Server(url, **({"key": KEY} | more)), base)
    try:
        await engine.open()
        yield engine
    finally:
        await engine.close()


def request(version: str, sampling: Sampling | None = None, id: str = "1") -> GenerateRequest:
    return GenerateRequest(version, PROMPT, sampling or Sampling(max_tokens=6), id)


def test_versions_answer_and_score_as_transformers_says(
    vllm: Vllm, url: str, base: Path, adapters: dict[str, Path], version_of: VersionOf
) -> None:
    vllm.cached = 3

    async def ask() -> tuple[list[Completion], list[list[Score]]]:
        async with opened(url, base) as engine:
            for name in ("base", "red", "blue"):
                await engine.load(version_of(name))
            answers = await asyncio.gather(
                *(complete(engine, request(name)) for name in ("base", "red", "blue"))
            )
            scores = [
                await engine.score(ScoreRequest(name, PROMPT, ENDS, "s"))
                for name in ("base", "red", "blue")
            ]
            return answers, scores

    answers, scores = asyncio.run(ask())
    for name, answer, rows in zip(("base", "red", "blue"), answers, scores, strict=True):
        reference = Reference(base, adapters.get(name))
        said = reference.greedy(PROMPT, 6)
        assert answer.tokens == said.tokens
        assert answer.logprobs == pytest.approx(said.logprobs, abs=1e-4)
        assert (answer.usage.prompt, answer.usage.cached) == (len(PROMPT), 3)
        for end, row in zip(ENDS, rows, strict=True):
            assert row.logprobs == pytest.approx(reference.score(PROMPT, end), abs=1e-4)


def test_the_built_in_engine_gives_the_same_chunks(
    vllm: Vllm, url: str, base: Path, version_of: VersionOf
) -> None:
    """Text, stop strings, stop tokens and the likeliest tokens are one thing in both."""
    files = replace(version_of("base"), version=vllm.model)
    text = asyncio.run(complete(vllm.engine, request(vllm.model, Sampling(max_tokens=12)))).text
    samplings = [
        Sampling(max_tokens=12),
        Sampling(max_tokens=12, stop=(text[3:5],)),
        Sampling(max_tokens=5, top_logprobs=3),
        Sampling(max_tokens=8, temperature=0.9, seed=4, top_k=9, top_p=0.9, min_p=0.01),
        Sampling(max_tokens=8, repetition_penalty=1.3, presence_penalty=0.4, stop_tokens=(7,)),
    ]

    async def ask() -> list[tuple[Completion, Completion]]:
        async with opened(url, base) as engine:
            await engine.load(files)
            return [
                (
                    await complete(engine, request(vllm.model, sampling)),
                    await complete(vllm.engine, request(vllm.model, sampling)),
                )
                for sampling in samplings
            ]

    for theirs, ours in asyncio.run(ask()):
        assert replace(theirs, usage=ours.usage) == ours


def test_an_adapter_is_loaded_under_its_content_and_unloaded(
    vllm: Vllm, url: str, base: Path, adapters: dict[str, Path], version_of: VersionOf
) -> None:
    async def ask() -> None:
        async with opened(url, base) as engine:
            await engine.load(version_of("red"))
            await engine.load(version_of("red"))
            [name] = vllm.adapters
            version, digest = name.split("@")
            assert (version, len(digest)) == ("red", 16)
            assert vllm.adapters[name] == str(adapters["red"])
            with pytest.raises(IdentityError, match="other files"):
                await engine.load(replace(version_of("blue"), version="red"))
        # Another client of the same server finds it there.
        async with opened(url, base) as engine:
            await engine.load(version_of("red"))
            await complete(engine, request("red"))
            await engine.unload("red")
            assert not vllm.adapters
            with pytest.raises(VersionNotLoaded):
                await complete(engine, request("red"))

    asyncio.run(ask())


def test_two_clients_that_load_one_adapter_at_once_both_have_it(
    vllm: Vllm, url: str, base: Path, version_of: VersionOf
) -> None:
    async def ask() -> None:
        async with opened(url, base) as one, opened(url, base) as other:
            await asyncio.gather(*(each.load(version_of("red")) for each in (one, other)))
            for each in (one, other):
                await complete(each, request("red"))
        assert len(vllm.adapters) == 1

    asyncio.run(ask())


def test_a_server_that_was_restarted_has_forgotten_what_it_held(
    vllm: Vllm, url: str, base: Path, version_of: VersionOf
) -> None:
    async def ask() -> None:
        async with opened(url, base) as engine:
            await engine.load(version_of("red"))
            vllm.adapters.clear()
            await vllm.engine.unload(next(iter(engine._held.values())).name)
            for _ in range(2):
                with pytest.raises(VersionNotLoaded):
                    await complete(engine, request("red"))
            await engine.load(version_of("red"))
            await complete(engine, request("red"))
            await engine.unload("red")
            await engine.unload("red")

    asyncio.run(ask())


def test_a_broken_stream_fails_its_request_alone(
    vllm: Vllm, url: str, base: Path, version_of: VersionOf
) -> None:
    async def ask() -> None:
        async with opened(url, base) as engine:
            await engine.load(replace(version_of("base"), stop_tokens=()))
            vllm.breaks_after = 2
            async with aclosing(engine.generate(request("base"))) as stream:
                for _ in range(2):
                    await anext(stream)
                with pytest.raises(EngineUnavailable) as caught:
                    await anext(stream)
            assert caught.value.hint
            vllm.breaks_after = None
            assert len((await complete(engine, request("base"))).tokens) == 6

    asyncio.run(ask())


def test_a_stream_that_is_left_is_cancelled_at_the_server(
    vllm: Vllm, url: str, base: Path, version_of: VersionOf
) -> None:
    async def ask() -> None:
        async with opened(url, base) as engine:
            await engine.load(replace(version_of("base"), stop_tokens=()))
            vllm.pause_s = 0.01
            long = request("base", Sampling(max_tokens=400))
            async with aclosing(engine.generate(long)) as stream:
                await anext(stream)
            async with asyncio.timeout(10):
                while not vllm.cancelled:
                    await asyncio.sleep(0.01)

    asyncio.run(ask())


def test_patience_and_priority_reach_the_server_where_it_heeds_them(
    vllm: Vllm, url: str, base: Path, version_of: VersionOf
) -> None:
    async def ask() -> None:
        async with opened(url, base, priority=True) as engine:
            await engine.load(version_of("base"))
            await complete(engine, replace(request("base"), priority="shadow"))
            assert vllm.bodies[-1]["priority"] == 2
            with pytest.raises(EngineOverloaded):
                await complete(engine, replace(request("base"), patience_s=0.0))
            with pytest.raises(EngineOverloaded):
                await engine.score(ScoreRequest("base", PROMPT, ENDS, "s", patience_s=0.0))
        async with opened(url, base) as engine:
            await engine.load(version_of("base"))
            await complete(engine, replace(request("base"), priority="shadow"))
            assert "priority" not in vllm.bodies[-1]

    asyncio.run(ask())


def refusal(url: str, base: Path, files: VersionFiles, **more: Any) -> TrimtabError:
    async def load() -> None:
        async with opened(url, base, **more) as engine:
            await engine.load(files)

    with pytest.raises(TrimtabError) as caught:
        asyncio.run(load())
    assert "\n" not in caught.value.message
    assert caught.value.hint
    return caught.value


def test_what_vllm_cannot_serve_is_refused_before_it_is_asked(
    vllm: Vllm, url: str, base: Path, version_of: VersionOf, tmp_path: Path
) -> None:
    ia3 = build_kind(tmp_path / "ia3", base, "ia3")
    assert "method ia3" in refusal(url, base, replace(version_of("red"), adapter=ia3)).message
    config = json.loads((version_of("red").adapter / "adapter_config.json").read_text())  # type: ignore[operator]
    (ia3 / "adapter_config.json").write_text(json.dumps(config | {"use_dora": True}))
    assert "method dora" in refusal(url, base, replace(version_of("red"), adapter=ia3)).message
    merged = refusal(url, base, replace(version_of("red"), merged=True))
    assert isinstance(merged, RequestRefused)
    foreign = refusal(url, base, replace(version_of("red"), base=tmp_path))
    assert isinstance(foreign, IdentityError)
    lost = refusal(url, base, replace(version_of("red"), adapter=tmp_path / "lost"))
    assert isinstance(lost, IdentityError)
    assert not vllm.adapters


def test_what_vllm_refuses_is_told(
    vllm: Vllm, url: str, base: Path, version_of: VersionOf, tmp_path: Path
) -> None:
    broken = tmp_path / "broken"
    broken.mkdir()
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        content = (version_of("red").adapter / name).read_bytes()  # type: ignore[operator]
        (broken / name).write_bytes(content[: -(len(content) // 3) if "model" in name else None])
    refused = refusal(url, base, replace(version_of("red"), adapter=broken))
    assert isinstance(refused, IdentityError)
    wrong = refusal(url, base, version_of("base"), key="wrong")
    assert type(wrong) is EngineError
    assert "key" in wrong.message


@pytest.mark.parametrize(
    ("told", "retry_s"),
    [("3600", 3600), ("0", 1), ("Thu, 01 Jan 2099 00:00:00 GMT", 1), ("9" * 40, 1)],
)
def test_a_busy_server_says_how_long(
    vllm: Vllm, url: str, base: Path, version_of: VersionOf, told: str, retry_s: float
) -> None:
    async def ask() -> None:
        async with opened(url, base) as engine:
            await engine.load(version_of("base"))
            vllm.busy = told
            with pytest.raises(EngineOverloaded) as streamed:
                await complete(engine, request("base"))
            with pytest.raises(EngineOverloaded) as whole:
                await engine.score(ScoreRequest("base", PROMPT, ((7,),), "s"))
            assert streamed.value.retry_s == whole.value.retry_s == retry_s
            assert len(vllm.bodies) == 2

    asyncio.run(ask())


def test_a_request_that_can_never_work_is_refused(
    vllm: Vllm, url: str, base: Path, version_of: VersionOf
) -> None:
    async def ask() -> None:
        async with opened(url, base) as engine:
            await engine.load(version_of("base"))
            with pytest.raises(RequestRefused, match="the model holds 512"):
                await complete(engine, request("base", Sampling(max_tokens=600)))
            asked = len(vllm.bodies)
            with pytest.raises(RequestRefused, match="the model holds 511"):
                # vLLM computes a token beside a score, and has no room for it here.
                await engine.score(ScoreRequest("base", PROMPT, ((7,) * 508,), "full"))
            assert len(vllm.bodies) == asked
            [full] = await engine.score(ScoreRequest("base", PROMPT, ((7,) * 507,), "fits"))
            assert len(full.logprobs) == 507
            with pytest.raises(VersionNotLoaded):
                await complete(engine, request("red"))

    asyncio.run(ask())


def test_a_server_that_is_not_there_or_serves_something_else(
    vllm: Vllm, base: Path, version_of: VersionOf
) -> None:
    async def look(url: str) -> None:
        async with opened(url, base):
            pass

    with pytest.raises(EngineUnavailable):
        asyncio.run(look("http://127.0.0.1:9"))
    with vllm.listening() as url:
        asyncio.run(look(url))
        vllm.model = "another-name"
        asyncio.run(look(url))
        vllm.adapters["more"] = "adapters are no bases"
        asyncio.run(look(url))
        vllm.root = "/models/another"
        with pytest.raises(BaseError, match="another-name"):
            asyncio.run(look(url))
        vllm.model = base.name
        asyncio.run(look(url))


def test_an_address_may_end_as_clients_of_openai_are_told(
    url: str, base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(vllm_server.KEY, KEY)

    async def told() -> int:
        async with vllm_server.given(f"{url}/v1/", base) as engine:
            return (await engine.capabilities()).context

    assert asyncio.run(told()) == 512


def test_capabilities_are_those_of_vllm(url: str, base: Path) -> None:
    async def told() -> Any:
        async with opened(url, base, device="cpu", dtype="float32") as engine:
            return await engine.capabilities()

    found = asyncio.run(told())
    assert found.runtime.name == f"vllm-{VERSION}/cpu/float32/none"
    assert (found.context, found.methods, found.merged) == (512, METHODS, False)


def test_no_torch_is_needed() -> None:
    code = "import sys, trimtab.engine.vllm.server; print('torch' in sys.modules)"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert told.stdout == "False\n"


def test_a_rank_that_the_server_has_no_room_for_is_refused_before_it_is_asked(
    vllm: Vllm, url: str, base: Path, version_of: VersionOf, tmp_path: Path
) -> None:
    """Of single layers, too."""
    red = version_of("red")
    assert red.adapter is not None
    folder = tmp_path / "red"
    shutil.copytree(red.adapter, folder)
    config = json.loads((folder / "adapter_config.json").read_text())
    config["rank_pattern"] = {"model.layers.0.self_attn.q_proj": 65}
    (folder / "adapter_config.json").write_text(json.dumps(config))

    async def load() -> None:
        async with opened(url, base, max_rank=64) as engine:
            await engine.load(red)
            with pytest.raises(RequestRefused, match="a rank of 65, and vLLM is started for 64"):
                await engine.load(replace(red, version="wide", adapter=folder))

    asyncio.run(load())
    assert len(vllm.adapters) == 1
