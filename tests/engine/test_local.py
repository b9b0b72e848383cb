"""The engine in this process: what it admits, in which order it obeys, how it ends."""

import asyncio
import threading
from collections.abc import Iterator
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.engine.conftest import VersionOf
from tests.engine.reference import Reference
from tests.tiny import build_base
from trimtab.engine.continuous import adapters as hot
from trimtab.engine.dtype import pick_device
from trimtab.engine.general.path import GeneralPath, Version
from trimtab.engine.local import LocalEngine
from trimtab.engine.ops.build import library
from trimtab.engine.ops.compiled import runs
from trimtab.engine.process import serve
from trimtab.engine.worker import MAX_WAITING
from trimtab.errors import (
    EngineError,
    EngineOverloaded,
    EngineUnavailable,
    IdentityError,
    RequestRefused,
    VersionNotLoaded,
)
from trimtab.inference import (
    Chunk,
    Completion,
    GenerateRequest,
    Sampling,
    ScoreRequest,
    VersionFiles,
    complete,
)

PROMPT = (17, 40, 5, 99, 250, 31)
NAMES = ("base", "red", "blue")


@pytest.fixture
def engine(base: Path) -> Iterator[LocalEngine]:
    engine = LocalEngine(base, torch.float32, pick_device())
    yield engine
    engine.close()


def request(version: str, max_tokens: int = 6, id: str = "1") -> GenerateRequest:
    return GenerateRequest(version, PROMPT, Sampling(max_tokens=max_tokens), id)


def test_mixed_versions_answer_at_the_same_time_as_they_do_alone(
    engine: LocalEngine, base: Path, adapters: dict[str, Path], version_of: VersionOf
) -> None:
    async def ask() -> list[Completion]:
        for name in NAMES:
            await engine.load(version_of(name))
        return await asyncio.gather(*(complete(engine, request(name)) for name in NAMES * 4))

    answers = asyncio.run(ask())
    for name, answer in zip(NAMES * 4, answers, strict=True):
        assert answer.tokens == Reference(base, adapters.get(name)).greedy(PROMPT, 6).tokens


def test_too_many_are_refused_and_the_admitted_are_answered(
    engine: LocalEngine, version_of: VersionOf
) -> None:
    begun, held = threading.Event(), threading.Event()

    def blocks(files: VersionFiles, ready: object) -> None:
        begun.set()
        held.wait(60)

    async def flood() -> list[object]:
        await engine.load(version_of("base"))
        # The computing thread is kept busy, so that nothing leaves the queue.
        engine._versions.load = blocks  # type: ignore[method-assign]
        blocked = asyncio.create_task(engine.load(version_of("red")))
        await asyncio.to_thread(begun.wait, 60)
        many = [complete(engine, request("base", 1, str(i))) for i in range(MAX_WAITING + 20)]
        waiting = asyncio.gather(*many, return_exceptions=True)
        await asyncio.sleep(0.1)
        held.set()
        await blocked
        return list(await waiting)

    results = asyncio.run(flood())
    refused = [result for result in results if isinstance(result, EngineOverloaded)]
    assert len(refused) == 20
    assert not [r for r in results if isinstance(r, BaseException) and r not in refused]


def test_what_gives_way_is_no_reason_to_refuse(engine: LocalEngine, version_of: VersionOf) -> None:
    """A queue full of batches is full for batches alone, and for no version that is loaded."""
    begun, held = threading.Event(), threading.Event()
    load = engine._versions.load

    def blocks(files: VersionFiles, ready: object) -> None:
        begun.set()
        held.wait(60)
        load(files, ready)  # type: ignore[arg-type]

    async def flood() -> None:
        await engine.load(version_of("base"))
        engine._versions.load = blocks  # type: ignore[method-assign]
        blocked = asyncio.create_task(engine.load(version_of("red")))
        await asyncio.to_thread(begun.wait, 60)
        few = replace(request("base", 1), priority="batch")
        many = [asyncio.create_task(complete(engine, few)) for _ in range(MAX_WAITING)]
        await asyncio.sleep(0)
        for priority in ("batch", "shadow"):
            with pytest.raises(EngineOverloaded, match="waiting already"):
                await complete(engine, replace(few, priority=priority))
        urgent = asyncio.create_task(complete(engine, request("base", 1)))
        another = asyncio.create_task(engine.load(version_of("blue")))
        await asyncio.sleep(0.05)
        held.set()
        await asyncio.gather(blocked, urgent, another, *many)

    asyncio.run(flood())


def test_one_that_would_be_whole_too_late_is_refused_at_once(
    engine: LocalEngine, version_of: VersionOf
) -> None:
    async def ask() -> None:
        await engine.load(version_of("base"))
        await complete(engine, request("base"))
        crowd = [
            asyncio.create_task(
                complete(engine, replace(request("base", 1, str(i)), prompt=(i + 3,) * 500))
            )
            for i in range(60)
        ]
        await asyncio.sleep(0)
        with pytest.raises(EngineOverloaded, match="is expected after") as caught:
            await complete(engine, replace(request("base"), patience_s=0.0))
        assert caught.value.retry_s >= 1
        assert not any(one.done() for one in crowd)
        await asyncio.gather(*crowd)

    asyncio.run(ask())


def test_unloading_waits_for_answers_and_refuses_new_ones(
    engine: LocalEngine, base: Path, version_of: VersionOf
) -> None:
    async def ask() -> None:
        await engine.load(replace(version_of("base"), version="endless", stop_tokens=()))
        await engine.load(version_of("red"))
        async with aclosing(engine.generate(request("endless", 60))) as stream:
            await anext(stream)
            gone = asyncio.create_task(engine.unload("endless"))
            await complete(engine, request("red"))
            assert not gone.done()
            with pytest.raises(VersionNotLoaded, match="is being unloaded"):
                await complete(engine, request("endless"))
            assert len([chunk async for chunk in stream]) == 59
        await gone
        with pytest.raises(VersionNotLoaded):
            await complete(engine, request("endless"))

    asyncio.run(ask())


def test_a_version_has_one_content(
    engine: LocalEngine, tmp_path: Path, version_of: VersionOf
) -> None:
    async def load() -> None:
        await engine.load(version_of("red"))
        await engine.load(version_of("red"))
        with pytest.raises(IdentityError, match="other files"):
            await engine.load(replace(version_of("blue"), version="red"))
        with pytest.raises(IdentityError, match="stands on"):
            await engine.load(VersionFiles("foreign", tmp_path, None, tmp_path, (2,)))

    asyncio.run(load())


def test_the_merged_copy_answers_beside_the_others(
    engine: LocalEngine, version_of: VersionOf
) -> None:
    async def ask() -> None:
        ends = ((4, 5, 6), ())
        for name in ("red", "red+merged"):
            await engine.load(version_of(name))
        apart, merged = [
            await engine.score(ScoreRequest(name, PROMPT, ends, "1"))
            for name in ("red", "red+merged")
        ]
        assert apart[0].logprobs == pytest.approx(merged[0].logprobs, abs=1e-4)
        await engine.unload("red+merged")

    asyncio.run(ask())


def test_a_drained_engine_finishes_what_it_admitted(base: Path, version_of: VersionOf) -> None:
    async def drain() -> None:
        engine = LocalEngine(base, torch.float32, pick_device())
        await engine.load(replace(version_of("base"), version="endless", stop_tokens=()))
        answer = asyncio.create_task(complete(engine, request("endless", 40)))
        await asyncio.sleep(0.01)
        await engine.drain(30)
        assert len((await answer).tokens) == 40
        with pytest.raises(EngineUnavailable):
            await complete(engine, request("endless"))

    asyncio.run(drain())


def test_a_score_that_the_drain_s_deadline_cuts_off_is_told_so(
    base: Path, version_of: VersionOf
) -> None:
    async def drain() -> None:
        engine = LocalEngine(base, torch.float32, pick_device())
        await engine.load(version_of("base"))
        many = ScoreRequest("base", (5,) * 300, tuple((i % 50,) * 200 for i in range(200)), "s")
        score = asyncio.create_task(engine.score(many))
        await asyncio.sleep(0.01)
        await engine.drain(0.0)
        async with asyncio.timeout(5):
            with pytest.raises(EngineUnavailable, match="stopped"):
                await score

    asyncio.run(drain())


def test_a_fault_of_the_computing_thread_is_told_to_everybody_and_ends_the_process(
    base: Path, version_of: VersionOf, tmp_path: Path
) -> None:
    engine = LocalEngine(base, torch.float32, pick_device())

    def breaks() -> None:
        raise IndexError("a fault of ours")

    async def ask() -> None:
        await engine.load(version_of("base"))
        engine._fast.step = breaks  # type: ignore[union-attr,method-assign]
        async with asyncio.timeout(20):
            asked = (complete(engine, request("base", 4, str(i))) for i in range(3))
            told = await asyncio.gather(*asked, return_exceptions=True)
            score = ScoreRequest("base", PROMPT, ((5,), (6, 7)), "s")
            told.append((await asyncio.gather(engine.score(score), return_exceptions=True))[0])
            assert all(isinstance(error, EngineError) for error in told)
            assert any("a fault of ours" in str(error) for error in told)
            with pytest.raises(EngineUnavailable):
                await complete(engine, request("base"))
            with pytest.raises(EngineUnavailable):
                await serve(engine, tmp_path / "socket")

    assert engine.alive()
    asyncio.run(ask())
    assert not engine.alive()
    engine.close()


def test_a_job_that_cannot_be_taken_in_costs_itself_alone(
    engine: LocalEngine, version_of: VersionOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def ask() -> None:
        await engine.load(version_of("base"))
        with monkeypatch.context() as broken:
            broken.setattr(engine._fast, "add", lambda job: 1 // 0)
            with pytest.raises(EngineError, match="ZeroDivisionError"):
                await complete(engine, request("base"))
        assert len((await complete(engine, request("base", 2))).tokens) == 2

    asyncio.run(ask())


def test_a_stop_string_of_a_thousand_characters_ends_the_answer_where_it_stands(
    tmp_path: Path,
) -> None:
    """Nothing that may be its beginning is given out before that is certain; one that never comes
    costs nobody a character.
    """
    base = build_base(tmp_path / "base", layers=1, context=2048)
    engine = LocalEngine(base, torch.float32, pick_device())

    async def ask(*stop: str) -> list[Chunk]:
        sampling = Sampling(max_tokens=2000, stop=stop)
        asked = GenerateRequest("base", PROMPT, sampling, "s")
        return [chunk async for chunk in engine.generate(asked)]

    async def run() -> None:
        await engine.load(VersionFiles("base", base, None, base, ()))
        whole = await ask()
        text = said(whole)
        stop = text[5:1005]
        assert len(stop) == 1000
        stopped = await ask(stop)
        assert (said(stopped), stopped[-1].finish_reason) == (text[: text.index(stop)], "stop")
        assert len(stopped) < len(whole)
        other = await ask(stop[:-1] + "\0")
        assert said(other) == text
        assert [c.tokens for c in other] == [c.tokens for c in whole]

    try:
        asyncio.run(run())
    finally:
        engine.close()


def said(chunks: list[Chunk]) -> str:
    return "".join(chunk.text for chunk in chunks)


@pytest.mark.parametrize("most", [0, -1, 513, 10**9])
def test_a_length_that_can_never_be_is_refused_and_the_others_go_on(
    engine: LocalEngine, version_of: VersionOf, most: int
) -> None:
    async def run() -> None:
        await engine.load(version_of("base"))
        fit, unfit = await asyncio.gather(
            complete(engine, request("base")),
            complete(engine, request("base", max_tokens=most, id="2")),
            return_exceptions=True,
        )
        assert isinstance(fit, Completion)
        assert isinstance(unfit, RequestRefused)
        assert "max_tokens" in f"{unfit.message} {unfit.hint}"

    asyncio.run(run())


def test_capabilities_name_what_computes(engine: LocalEngine) -> None:
    told = asyncio.run(engine.capabilities())
    assert told.runtime.name.endswith("/cpu/float32/none")
    compiled = library()
    assert compiled is not None
    assert told.kernels == runs(compiled)[-1]
    assert told.context == 512
    assert (told.methods["lora"], told.methods["bottleneck"]) == ("mixed", "alone")


def test_what_the_general_path_reads_is_read_beside_the_computing_thread(
    engine: LocalEngine, version_of: VersionOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads: list[str] = []
    prepare = GeneralPath.prepare

    def noted(path: GeneralPath, files: VersionFiles) -> Version:
        threads.append(threading.current_thread().name)
        return prepare(path, files)

    monkeypatch.setattr(GeneralPath, "prepare", noted)
    files = version_of("red+merged")

    async def load() -> None:
        await asyncio.gather(engine.load(files), engine.load(files))
        await engine.load(files)

    asyncio.run(load())
    assert len(threads) == 1, "of two callers at once one has it read for both"
    assert "engine" not in threads
    assert len(asyncio.run(complete(engine, request("red+merged"))).tokens) == 6


def test_adapters_are_read_beside_the_computing_thread(
    engine: LocalEngine, base: Path, adapters: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """At a load, and when one that left memory is asked again; those that miss it together have it
    read once.
    """
    threads: list[str] = []
    load = hot.load_adapter

    def noted(*told: Any) -> Any:
        threads.append(threading.current_thread().name)
        return load(*told)

    monkeypatch.setattr(hot, "HOT", 1)
    monkeypatch.setattr(hot, "load_adapter", noted)

    async def ask() -> None:
        for name in ("red", "blue"):
            await engine.load(VersionFiles(name, base, adapters[name], base, (2,)))
        told = await asyncio.gather(
            *(complete(engine, request("red", id=str(i))) for i in range(4))
        )
        [score] = await engine.score(ScoreRequest("blue", PROMPT, ((7, 8),), "s"))
        red, blue = (Reference(base, adapters[name]) for name in ("red", "blue"))
        assert {answer.tokens for answer in told} == {red.greedy(PROMPT, 6).tokens}
        assert score.logprobs == pytest.approx(blue.score(PROMPT, (7, 8)), abs=1e-4)

    asyncio.run(ask())
    assert len(threads) == 4
    # On a GPU nothing may disturb the capture of a graph.
    assert ("engine" in threads) is (engine.runtime.device == "cuda")
