"""Deterministic answers are the same to the last bit, alone and in any company."""

import random
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from tests.engine.conftest import VersionOf
from tests.engine.paths import FAST, KINDS, AnyPath, Kept, answer, ask, load, make_path, run
from tests.engine.test_paths import NAMES, prompts
from trimtab.engine.continuous.blocks import Blocks
from trimtab.engine.continuous.path import ContinuousPath
from trimtab.engine.continuous.schedule import Schedule
from trimtab.engine.jobs import GenerateJob
from trimtab.inference import Completion, GenerateRequest, Sampling

COUNT = 6
FIXED = Sampling(max_tokens=COUNT, top_logprobs=2, deterministic=True)
DRAWN = Sampling(
    max_tokens=COUNT, temperature=1.2, top_p=0.9, seed=5, presence_penalty=0.5, deterministic=True
)
LENGTHS = (5, 16, 31, 47, 80)


@pytest.fixture(params=KINDS)
def path(request: pytest.FixtureRequest, base: Path, version_of: VersionOf) -> AnyPath:
    path = make_path(base, request.param)
    for name in NAMES:
        load(path, version_of(name))
    return path


def bits(told: Completion) -> tuple[object, ...]:
    """What must not change; how much was found in the cache may."""
    return told.text, told.tokens, told.logprobs, told.top, told.finish_reason


def crowd(
    path: AnyPath, asked: list[tuple[str, tuple[int, ...], Sampling]], seed: int
) -> list[Completion]:
    """All of them with others beside them, coming in at random steps."""
    source = random.Random(seed)
    jobs = []
    for i, (version, prompt, sampling) in enumerate(asked):
        jobs.append(GenerateJob(GenerateRequest(version, prompt, sampling, str(i)), Kept()))
        beside = (source.randrange(3, 300),) * source.randrange(1, 60)
        for more in (prompt[: len(prompt) // 2 + 1], prompt, beside):
            other = GenerateRequest(
                source.choice(NAMES), more, Sampling(max_tokens=source.randrange(1, 7)), "beside"
            )
            path.add(GenerateJob(other, Kept()))
        path.add(jobs[-1])
        for _ in range(source.randrange(3)):
            path.step()
    run(path)
    return [answer(job) for job in jobs]


def test_deterministic_answers_are_equal_to_the_last_bit(
    path: AnyPath, base: Path, version_of: VersionOf
) -> None:
    """Against a path that never computed anything else, with three versions mixed, prompts read in
    small pieces, prefixes found in the cache, and a cache too small for all.
    """
    asked = [
        (NAMES[i % 3], prompt, (FIXED, DRAWN)[i % 2])
        for i, prompt in enumerate(prompts(LENGTHS, shared=20, seed=40))
    ]
    alone = [ask(path, version, [prompt], sampling)[0] for version, prompt, sampling in asked]
    sizes = (64, 18, 10) if isinstance(path, ContinuousPath) else (64,)
    for seed, blocks in enumerate(sizes):
        if isinstance(path, ContinuousPath):
            path._schedule = Schedule(Blocks(blocks), 24)
        found = 0
        for told, expected in zip(crowd(path, asked, seed), alone, strict=True):
            assert bits(told) == bits(expected)
        for (version, prompt, sampling), expected in zip(asked, alone, strict=True):
            [again] = ask(path, version, [prompt], sampling)
            found += again.usage.cached
            assert bits(again) == bits(expected)
        assert found or blocks < 64 or not isinstance(path, ContinuousPath)


def test_an_answer_that_becomes_a_prompt_is_not_found_by_its_tokens(path: AnyPath) -> None:
    """It was computed a token at a time; a prompt is computed by the block."""
    [prompt] = prompts([30], seed=8)
    long = Sampling(max_tokens=40, deterministic=True)
    [first] = ask(path, "base", [prompt], long)
    follows = (*prompt, *first.tokens, 9, 9)
    [second] = ask(path, "base", [follows], FIXED)
    if isinstance(path, ContinuousPath):
        path._schedule = Schedule(Blocks(64), 256)
    [fresh] = ask(path, "base", [follows], FIXED)
    assert bits(second) == bits(fresh)


def test_the_number_of_threads_changes_no_bit(base: Path, version_of: VersionOf) -> None:
    """Compiled kernels take one where something else has the other cores, and all when they are
    quiet; what torch computes has the same number as long as its process lives.
    """
    path = make_path(base, "native")
    load(path, version_of("red"))
    assert isinstance(path, ContinuousPath)
    told = []
    try:
        for threads in (1, 3):
            torch.set_num_threads(threads)
            path._schedule = Schedule(Blocks(64), 256)
            answers = [
                ask(path, "red", [prompt], FIXED)[0]
                for prompt in prompts(LENGTHS, shared=20, seed=40)
            ]
            told.append([bits(each) for each in answers])
    finally:
        torch.set_num_threads(1)
    assert told[0] == told[1]


def test_how_often_the_default_differs_in_company_is_measured(
    base: Path, version_of: VersionOf, record_property: Callable[[str, object], None]
) -> None:
    """A measurement, in the report of the run (`--junitxml`, or `-s`): no rate is asserted."""
    asked = prompts([7, 19, 40, 66] * 4, seed=50)
    plain = Sampling(max_tokens=COUNT)
    paths = [make_path(base, FAST) for _ in range(2)]
    for path in paths:
        load(path, version_of("red"))
    alone = [ask(paths[0], "red", [prompt], plain)[0] for prompt in asked]
    together = ask(paths[1], "red", asked, plain)
    differ = sum(a.logprobs != b.logprobs for a, b in zip(alone, together, strict=True))
    moved = sum(a.tokens != b.tokens for a, b in zip(alone, together, strict=True))
    told = f"{differ} of {len(asked)} not equal to the last bit, {moved} in their tokens"
    record_property("default answers in company", told)
    print(told)
