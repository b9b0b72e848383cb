"""Prompts that go their own way inside a block: what is copied is what would have been computed."""

import random
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.engine.conftest import VersionOf
from tests.engine.paths import (
    KINDS,
    Kept,
    answer,
    ask,
    counting,
    load,
    make_path,
    run,
    score,
    scores,
)
from tests.engine.reference import Reference
from tests.engine.test_paths import NAMES, NATS, prompts
from trimtab.engine.continuous.blocks import BLOCK, Blocks
from trimtab.engine.continuous.path import ContinuousPath
from trimtab.engine.continuous.schedule import Schedule
from trimtab.engine.jobs import GenerateJob, ScoreJob
from trimtab.inference import Completion, GenerateRequest, Sampling, ScoreRequest

LENGTH = 53
PAGED = [kind for kind in KINDS if not kind.startswith("static")]


@pytest.fixture(scope="module", params=PAGED)
def path(request: pytest.FixtureRequest, base: Path, version_of: VersionOf) -> ContinuousPath:
    path = make_path(base, request.param)
    assert isinstance(path, ContinuousPath)
    for name in NAMES:
        load(path, version_of(name))
    return path


@pytest.fixture(scope="module")
def references(base: Path, adapters: dict[str, Path]) -> dict[str, Reference]:
    return {name: Reference(base, adapters.get(name)) for name in NAMES}


def said(path: ContinuousPath, name: str, prompt: Sequence[int], apart: bool = False) -> Completion:
    sampling = Sampling(max_tokens=3, deterministic=apart)
    return ask(path, name, [tuple(prompt)], sampling)[0]


def read(path: ContinuousPath, name: str, prompt: Sequence[int]) -> tuple[Completion, int]:
    """What is answered, and how many tokens of the prompt were read for it."""
    with counting(path) as steps:
        told = said(path, name, prompt)
    return told, sum(steps) - (len(told.tokens) - 1)


@pytest.mark.parametrize("shared", [1, 15, 16, 17, 40, LENGTH - 1, LENGTH])
def test_every_token_that_two_prompts_begin_with_is_found_and_whole_blocks_are_told(
    path: ContinuousPath, references: dict[str, Reference], shared: int
) -> None:
    path._schedule = Schedule(Blocks(40), 24)
    first, own = prompts([LENGTH, 9], seed=60)
    said(path, "red", first)
    told, computed = read(path, "red", (*first[:shared], *own))
    assert computed == len(own)
    assert told.usage.cached == shared // BLOCK * BLOCK
    expected = references["red"].score((*first[:shared], *own), told.tokens)
    assert told.logprobs == pytest.approx(expected, abs=NATS)


def test_what_was_answered_is_found_as_a_prompt(path: ContinuousPath) -> None:
    """All but its last token, which was never computed."""
    path._schedule = Schedule(Blocks(40), 24)
    [first] = prompts([LENGTH], seed=61)
    before = said(path, "blue", first)
    assert read(path, "blue", first)[1] == 1
    assert read(path, "blue", (*first, *before.tokens, 7, 7))[1] == 3


def test_no_part_is_found_by_another_version_or_by_one_that_came_new(
    path: ContinuousPath, version_of: VersionOf
) -> None:
    path._schedule = Schedule(Blocks(40), 24)
    [first] = prompts([10], seed=62)
    said(path, "red", first)
    assert said(path, "blue", first).usage.cached == 0
    path.unload("red")
    path.load(version_of("red"))
    assert said(path, "red", first).usage.cached == 0


def test_a_deterministic_answer_begins_with_whole_blocks_alone(path: ContinuousPath) -> None:
    """And gives nobody a part: what it computes has names of its own."""
    path._schedule = Schedule(Blocks(40), 24)
    [first] = prompts([LENGTH], seed=63)
    said(path, "base", first)
    assert said(path, "base", first, apart=True).usage.cached == 0
    again = said(path, "base", first, apart=True)
    assert again.usage.cached == LENGTH // BLOCK * BLOCK


def test_completions_that_begin_alike_score_what_a_plain_pass_does(
    path: ContinuousPath, references: dict[str, Reference]
) -> None:
    """The logits of what they share are wanted of each."""
    path._schedule = Schedule(Blocks(40), 24)
    [prompt] = prompts([27], seed=64)
    ends = prompts([4, 1, 9], shared=11, seed=65)
    for end, found in zip(ends, score(path, "red", [(prompt, end) for end in ends]), strict=True):
        assert found.logprobs == pytest.approx(references["red"].score(prompt, end), abs=NATS)


@settings(
    max_examples=12,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
@given(
    asked=st.lists(
        st.tuples(
            st.sampled_from(NAMES),
            st.integers(0, 4),
            st.integers(0, 50),
            st.integers(1, 20),
            st.sampled_from(["ask", "ask", "ask apart", "score"]),
            st.integers(0, 4),
        ),
        min_size=2,
        max_size=8,
    ),
    blocks=st.integers(10, 24),
    prompt_tokens=st.integers(BLOCK, 40),
)
def test_random_beginnings_change_no_answer(
    path: ContinuousPath,
    references: dict[str, Reference],
    asked: list[tuple[str, int, int, int, str, int]],
    blocks: int,
    prompt_tokens: int,
) -> None:
    """Each prompt begins with some tokens of an earlier one or of the first, through a cache that
    may be too small for all.
    """
    path._schedule = Schedule(Blocks(blocks), prompt_tokens)
    source = random.Random(len(asked))
    rows = [tuple(source.randrange(3, 300) for _ in range(LENGTH))]
    jobs: list[GenerateJob | ScoreJob] = []
    for name, whose, kept, own, verb, steps in asked:
        more = tuple(source.randrange(3, 300) for _ in range(own))
        rows.append((*rows[whose % len(rows)][:kept], *more))
        sampling = Sampling(max_tokens=3, deterministic=verb == "ask apart")
        if verb == "score":
            request = ScoreRequest(name, rows[-1], (more, rows[0][:2]), "x")
            jobs.append(ScoreJob(request, Kept()))
        else:
            jobs.append(GenerateJob(GenerateRequest(name, rows[-1], sampling, "x"), Kept()))
        path.add(jobs[-1])
        for _ in range(steps):
            path.step()
    run(path)
    for job in jobs:
        reference = references[job.request.version]
        if isinstance(job, ScoreJob):
            ends = job.request.completions
            found = [each.logprobs for each in scores(job)]
        else:
            told = answer(job)
            assert told.usage.cached < len(job.request.prompt)
            ends, found = (told.tokens,), [told.logprobs]
        for end, logprobs in zip(ends, found, strict=True):
            expected = reference.score(job.request.prompt, end)
            assert logprobs == pytest.approx(expected, abs=NATS)
    assert path._schedule.blocks.available == blocks
