"""A device whose memory is short: who asked for too much is told so, and nobody else notices."""

import asyncio
from pathlib import Path

import pytest
import torch

from tests.engine.conftest import VersionOf
from tests.engine.paths import FAST, Kept, answer, ask, make_path, run
from tests.engine.test_paths import NAMES, prompts
from trimtab.engine.continuous import path as continuous
from trimtab.engine.continuous.batch import Batch
from trimtab.engine.continuous.blocks import BLOCK
from trimtab.engine.continuous.cache import Cache
from trimtab.engine.continuous.path import ContinuousPath
from trimtab.engine.continuous.room import Room
from trimtab.engine.continuous.scoring import logprobs_of
from trimtab.engine.jobs import GenerateJob
from trimtab.engine.local import LocalEngine
from trimtab.errors import EngineError, RequestRefused
from trimtab.inference import GenerateRequest, Sampling, complete

GREEDY = Sampling(max_tokens=5)
FITS = 30
"""Tokens of a step."""


def test_a_step_without_memory_is_computed_in_parts_and_costs_who_fits_in_none(
    base: Path, version_of: VersionOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = make_path(base, FAST)
    assert isinstance(path, ContinuousPath)
    for name in NAMES:
        path.load(version_of(name))
    free = path._schedule.blocks.available
    asked = list(zip(NAMES * 3, prompts([3, 28, 9, 17, 60, 12, 1, 21, 8], seed=3), strict=True))
    alone = [ask(path, name, [prompt], GREEDY)[0].tokens for name, prompt in asked]
    for name in NAMES:
        path._schedule.blocks.forget(name)
    forward, steps = path.model.forward, []

    def narrow(batch: Batch, cache: Cache) -> torch.Tensor:
        steps.append(len(batch.tokens))
        if len(batch.tokens) > FITS:
            forward(batch, cache)
            raise torch.OutOfMemoryError("CUDA out of memory")
        return forward(batch, cache)

    monkeypatch.setattr(path.model, "forward", narrow)
    jobs = [
        GenerateJob(GenerateRequest(name, prompt, GREEDY, str(i)), Kept())
        for i, (name, prompt) in enumerate(asked)
    ]
    for job in jobs:
        path.add(job)
    run(path)
    assert max(steps) > FITS
    for job, (_, prompt), tokens in zip(jobs, asked, alone, strict=True):
        if len(prompt) > FITS:
            with pytest.raises(EngineError, match="no memory for 60 tokens of this request"):
                answer(job)
        else:
            assert answer(job).tokens == tokens
    assert path._schedule.blocks.available == free


def test_a_whole_context_has_room_where_it_fits_at_all() -> None:
    def blocks(cache_bytes: int, longest_bytes: int) -> int:
        return Room(1, 1, cache_bytes, longest_bytes).blocks(context=10 * BLOCK, each=100)

    assert blocks(5000, 6000) == 50
    assert blocks(300, 6000) == 11
    assert blocks(300, 800) == 8
    with pytest.raises(EngineError, match="200 bytes for keys and values at least"):
        blocks(30, 80)


def test_a_context_that_the_device_cannot_hold_is_cut_and_said(
    base: Path,
    version_of: VersionOf,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(continuous, "block_bytes", lambda *_: 100)
    monkeypatch.setattr(continuous, "room", lambda _: Room(64, 4, 100, 500))
    engine = LocalEngine(base, torch.float32)
    try:
        [record] = caplog.records
        assert f"memory for contexts of {4 * BLOCK} tokens" in record.getMessage()

        async def asks(count: int) -> int:
            await engine.load(version_of("base"))
            assert (await engine.capabilities()).context == 4 * BLOCK
            request = GenerateRequest("base", (5,) * count, GREEDY, str(count))
            return len((await complete(engine, request)).tokens)

        assert asyncio.run(asks(4 * BLOCK - 5)) == 5
        with pytest.raises(RequestRefused):
            asyncio.run(asks(4 * BLOCK))
    finally:
        engine.close()


def test_a_base_that_the_device_cannot_hold_is_an_error_of_one_line(
    base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB\nand more")

    monkeypatch.setattr(continuous, "load_weights", full)
    with pytest.raises(EngineError, match=r"no memory for it: CUDA out of memory\. .* 2 GiB$"):
        LocalEngine(base, torch.float32)


def test_logits_are_widened_a_part_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    logits = torch.randn(7, 50, generator=torch.Generator().manual_seed(1)).to(torch.bfloat16)
    tokens = [3, 0, 49, 7, 7, 20, 11]
    expected = logits.float().log_softmax(-1)[range(7), tokens].tolist()
    for numbers in (1, 100, 10**6):
        monkeypatch.setattr("trimtab.engine.continuous.scoring.AT_ONCE", numbers)
        assert logprobs_of(logits, tokens) == pytest.approx(expected, abs=1e-5)
