"""A version answers once it has repeated its proof, whichever engine computes it."""

import asyncio
import json
import math
import shutil
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests.awaiting import awaited
from tests.engine.conftest import VersionOf
from tests.engine.reference import Reference
from tests.engine.wire import KEY, Vllm
from tests.tiny import build_base
from trimtab.engine.local import LocalEngine
from trimtab.engine.trials import judge
from trimtab.engine.vllm.engine import VllmEngine
from trimtab.engine.vllm.routes import Server
from trimtab.errors import EngineError, EngineUnavailable, IdentityError, VersionNotLoaded
from trimtab.inference import (
    GenerateRequest,
    Probe,
    Proof,
    Runtime,
    Sampling,
    Score,
    ScoreRequest,
    VersionFiles,
    complete,
)

PROMPT, ENDS = (17, 40, 5, 99), ((7, 8, 9), (250, 4))
RUNTIME = Runtime("trimtab", "0", "cpu", "float32")
Computing = LocalEngine | VllmEngine
Open = Callable[[Path], AbstractAsyncContextManager[Computing]]


@asynccontextmanager
async def built_in(base: Path) -> AsyncIterator[LocalEngine]:
    engine = LocalEngine(base, torch.float32, torch.device("cpu"))
    try:
        yield engine
    finally:
        engine.close()


@asynccontextmanager
async def vllm(base: Path) -> AsyncIterator[VllmEngine]:
    async with through(await asyncio.to_thread(Vllm, base), base) as engine:
        yield engine


@asynccontextmanager
async def through(server: Vllm, base: Path) -> AsyncIterator[VllmEngine]:
    """The engine that asks a server for a base, which the server may not hold."""
    with server.listening() as url:
        engine = VllmEngine(Server(url, KEY), base)
        await engine.open()
        yield engine
        await engine.close()


@pytest.fixture(params=[built_in, vllm])
def opened(request: pytest.FixtureRequest) -> Open:
    found: Open = request.param
    return found


def proof_of(base: Path, adapter: Path | None) -> Proof:
    """By transformers and PEFT."""
    said = Reference(base, adapter)
    return Proof(1e-3, tuple(Probe(PROMPT, end, tuple(said.score(PROMPT, end))) for end in ENDS))


def proved(files: VersionFiles) -> VersionFiles:
    return replace(files, proof=proof_of(files.base, files.adapter))


async def ask(engine: Computing, version: str) -> None:
    await complete(engine, GenerateRequest(version, PROMPT, Sampling(max_tokens=2), "g"))
    await engine.score(ScoreRequest(version, PROMPT, ENDS, "s"))


async def refused(engine: Computing, version: str) -> None:
    with pytest.raises(VersionNotLoaded):
        await complete(engine, GenerateRequest(version, PROMPT, Sampling(max_tokens=2), "g"))
    with pytest.raises(VersionNotLoaded):
        await engine.score(ScoreRequest(version, PROMPT, ENDS, "s"))


class Gate:
    """Holds the probes of an engine back until it is opened."""

    def __init__(self, engine: Computing) -> None:
        self.open, self.asked = asyncio.Event(), 0
        self._score = engine._trials._score
        engine._trials._score = self

    async def __call__(self, request: ScoreRequest) -> list[Score]:
        self.asked += 1
        await self.open.wait()
        return await self._score(request)


async def until(gate: Gate, asked: int) -> None:
    async with asyncio.timeout(10):
        while gate.asked < asked:
            await asyncio.sleep(0.001)


@awaited
async def test_nobody_is_answered_between_a_load_and_the_end_of_its_probes(
    opened: Open, base: Path, version_of: VersionOf
) -> None:
    async with opened(base) as engine:
        gate = Gate(engine)
        loads = [asyncio.create_task(engine.load(proved(version_of("red")))) for _ in range(2)]
        await until(gate, len(ENDS))
        await refused(engine, "red")
        gate.open.set()
        await asyncio.gather(*loads)
        await ask(engine, "red")
        await engine.load(proved(version_of("red")))
        # The second caller waited for the first, and the third found it done.
        assert gate.asked == len(ENDS)
        await engine.unload("red")
        await engine.load(proved(version_of("red")))
        assert gate.asked == 2 * len(ENDS)


@awaited
async def test_what_answers_as_something_else_is_not_held(
    opened: Open, base: Path, version_of: VersionOf
) -> None:
    async with opened(base) as engine:
        red = proved(version_of("red"))
        swapped = replace(version_of("blue"), version="red", proof=red.proof)
        for _ in range(2):
            with pytest.raises(IdentityError, match="does not answer as itself"):
                await engine.load(swapped)
            await refused(engine, "red")
        await engine.load(red)
        await ask(engine, "red")
        with pytest.raises(IdentityError, match="other files"):
            await engine.load(swapped)
        await ask(engine, "red")


@pytest.mark.parametrize(
    ("opened", "alpha"),
    [(built_in, 0), (vllm, 0), (built_in, 8.1)],
    ids=["nothing", "nothing by vLLM", "nearly the same"],
)
@awaited
async def test_an_adapter_that_does_nothing_or_not_quite_the_same_is_refused(
    opened: Open,
    base: Path,
    adapters: dict[str, Path],
    tmp_path: Path,
    version_of: VersionOf,
    alpha: float,
) -> None:
    """What was trained has an alpha of 8; a server in 16 bits could not tell the last one."""
    other = Path(shutil.copytree(adapters["red"], tmp_path / "other"))
    config = json.loads((other / "adapter_config.json").read_bytes())
    (other / "adapter_config.json").write_text(json.dumps(config | {"lora_alpha": alpha}))
    red = proved(version_of("red"))
    async with opened(base) as engine:
        with pytest.raises(IdentityError, match="does not answer as itself"):
            await engine.load(replace(red, adapter=other))
        await refused(engine, "red")
        await engine.load(red)
        await ask(engine, "red")


@awaited
async def test_a_caller_that_leaves_in_the_middle_leaves_nothing_that_answers(
    opened: Open, base: Path, version_of: VersionOf
) -> None:
    async with opened(base) as engine:
        gate = Gate(engine)
        load = asyncio.create_task(engine.load(proved(version_of("red"))))
        await until(gate, len(ENDS))
        load.cancel()
        with pytest.raises(asyncio.CancelledError):
            await load
        await refused(engine, "red")
        gate.open.set()
        await engine.load(proved(version_of("red")))
        await ask(engine, "red")


@awaited
async def test_what_is_loaded_while_it_is_unloaded_is_there_and_proved_anew(
    opened: Open, base: Path, version_of: VersionOf
) -> None:
    async with opened(base) as engine:
        gate = Gate(engine)
        gate.open.set()
        await engine.load(proved(version_of("red")))
        async with aclosing(
            engine.generate(GenerateRequest("red", PROMPT, Sampling(max_tokens=20), "g"))
        ) as stream:
            await anext(stream)
            # The built-in engine lets the stream end first.
            gone = asyncio.create_task(engine.unload("red"))
            await asyncio.sleep(0)
            again = asyncio.create_task(engine.load(proved(version_of("red"))))
            await asyncio.sleep(0)
        await asyncio.gather(gone, again)
        assert gate.asked == 2 * len(ENDS)
        await ask(engine, "red")


@awaited
async def test_what_is_unloaded_as_its_last_probe_is_answered_can_be_loaded_again(
    opened: Open, base: Path, version_of: VersionOf
) -> None:
    async with opened(base) as engine:
        score, answered = engine._trials._score, 0

        async def unloaded(request: ScoreRequest) -> list[Score]:
            nonlocal answered
            scores = await score(request)
            answered += 1
            if answered == len(ENDS):
                await engine._drop("red")
            return scores

        engine._trials._score = unloaded
        with pytest.raises(VersionNotLoaded, match="while it was on trial"):
            await engine.load(proved(version_of("red")))
        await refused(engine, "red")
        await engine.load(proved(version_of("red")))
        await ask(engine, "red")
        # Gone without a word to those who judge.
        await engine.unload("red")
        engine._trials._passed.add("red")
        await engine.load(proved(version_of("red")))
        assert answered == 3 * len(ENDS)
        await ask(engine, "red")


@awaited
async def test_a_base_that_a_server_holds_under_the_same_name_is_found_out(
    base: Path, tmp_path: Path, version_of: VersionOf
) -> None:
    other = build_base(tmp_path / base.name, layers=3, seed=9)
    server = await asyncio.to_thread(Vllm, other)
    async with through(server, base) as engine:
        with pytest.raises(IdentityError, match="does not answer as itself") as caught:
            await engine.load(proved(version_of("base")))
        assert "another model" in caught.value.hint
        await refused(engine, "base")


@awaited
async def test_a_server_that_was_gone_has_its_versions_proved_again(
    base: Path, version_of: VersionOf
) -> None:
    server = await asyncio.to_thread(Vllm, base)
    async with through(server, base) as engine:
        for name in ("base", "red"):
            await engine.load(proved(version_of(name)))
        server.breaks_after = 1
        with pytest.raises(EngineUnavailable):
            await ask(engine, "red")
        server.breaks_after = None
        for name in ("base", "red"):
            await refused(engine, name)
            asked = len(server.bodies)
            await engine.load(proved(version_of(name)))
            assert len(server.bodies) == asked + len(ENDS)
            await ask(engine, name)
        # A restarted server is noticed by what it has forgotten, too.
        await server.engine.unload(next(iter(server.adapters)))
        server.adapters.clear()
        await engine.load(proved(version_of("red")))
        await refused(engine, "base")


@awaited
async def test_who_is_told_that_a_server_has_forgotten_an_adapter_trusts_nothing_that_it_holds(
    base: Path, tmp_path: Path, version_of: VersionOf
) -> None:
    """It was restarted while nobody asked, with another model under the name of the base."""
    other = build_base(tmp_path / base.name, layers=3, seed=9)
    server, another = await asyncio.gather(
        asyncio.to_thread(Vllm, base), asyncio.to_thread(Vllm, other)
    )
    async with through(server, base) as engine:
        for name in ("base", "red"):
            await engine.load(proved(version_of(name)))
        first, server.engine = server.engine, another.engine
        server.adapters.clear()
        await refused(engine, "red")
        await refused(engine, "base")
        with pytest.raises(IdentityError, match="does not answer as itself"):
            await engine.load(proved(version_of("base")))
        first.close()


def test_a_number_that_is_none_is_found_wherever_it_stands() -> None:
    proof = Proof(1e-3, (Probe(PROMPT, (7, 8, 9), (-1.0, -2.0, -3.0)),))

    async def damaged(request: ScoreRequest) -> list[Score]:
        return [Score((-1.0, math.nan, -3.0))]

    with pytest.raises(EngineError, match="not finite"):
        asyncio.run(judge("red", proof, RUNTIME, damaged))


@awaited
async def test_a_probe_that_fails_ends_the_others() -> None:
    proof = Proof(1e-3, tuple(Probe(PROMPT, (token,), (-1.0,)) for token in (7, 8)))
    left: list[int] = []

    async def failing(request: ScoreRequest) -> list[Score]:
        [[token]] = request.completions
        if token == 8:
            raise EngineUnavailable("gone")
        try:
            await asyncio.Event().wait()
        finally:
            left.append(token)
        return []

    with pytest.raises(EngineUnavailable):
        await judge("red", proof, RUNTIME, failing)
    assert left == [7]


@awaited
async def test_an_answer_that_is_wrong_is_no_sign_of_another_server(
    base: Path, version_of: VersionOf
) -> None:
    """But for the word of a proxy that has lost it."""
    server = await asyncio.to_thread(Vllm, base)
    async with through(server, base) as engine:
        await engine.load(proved(version_of("red")))
        server.fails = 500
        with pytest.raises(EngineUnavailable):
            await ask(engine, "red")
        server.fails, server.ends_after = None, 1
        with pytest.raises(EngineUnavailable, match="ended before"):
            await ask(engine, "red")
        server.ends_after = None
        await ask(engine, "red")
        server.fails = 502
        with pytest.raises(EngineUnavailable):
            await ask(engine, "red")
        server.fails = None
        await refused(engine, "red")
