"""Random traffic through a cache too small for it: everybody is answered, as if alone."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.engine.conftest import VersionOf
from tests.engine.paths import FAST, Kept, answer, ask, counting, make_path, scores
from tests.engine.reference import Reference, Said
from tests.engine.test_paths import NAMES, NATS, prompts, same
from trimtab.engine.continuous.batch import Batch
from trimtab.engine.continuous.blocks import BLOCK, Blocks
from trimtab.engine.continuous.cache import Cache
from trimtab.engine.continuous.path import ContinuousPath
from trimtab.engine.continuous.schedule import Schedule
from trimtab.engine.jobs import GenerateJob, ScoreJob
from trimtab.inference import GenerateRequest, Priority, Sampling, ScoreRequest

PROMPT_TOKENS = 24
LENGTHS = (3, 17, 40, 70)
COUNT = 9


@pytest.fixture(scope="module")
def path(base: Path, version_of: VersionOf) -> ContinuousPath:
    path = make_path(base, FAST)
    assert isinstance(path, ContinuousPath)
    for name in NAMES:
        path.load(version_of(name))
    return path


@pytest.fixture(scope="module")
def expected(base: Path, adapters: dict[str, Path]) -> dict[tuple[str, int], Said]:
    asked = prompts(LENGTHS, shared=20, seed=31)
    return {
        (name, i): Reference(base, adapters.get(name)).greedy(prompt, COUNT)
        for name in NAMES
        for i, prompt in enumerate(asked)
    }


Event = tuple[str, int, Priority, int]


@settings(
    max_examples=25,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
@given(
    events=st.lists(
        st.tuples(
            st.sampled_from(NAMES),
            st.integers(0, len(LENGTHS) - 1),
            st.sampled_from(["interactive", "batch", "shadow"]),
            st.integers(0, 3),
        ),
        min_size=1,
        max_size=12,
    ),
    blocks=st.integers(8, 20),
)
def test_no_answer_changes_because_of_its_neighbours(
    path: ContinuousPath,
    expected: dict[tuple[str, int], Said],
    events: list[Event],
    blocks: int,
) -> None:
    """Chunked prompts, shared prefixes, three versions, and sequences put off for lack of room."""
    path._schedule = Schedule(Blocks(blocks), PROMPT_TOKENS)
    asked = prompts(LENGTHS, shared=20, seed=31)
    jobs = []
    for name, which, priority, steps in events:
        request = GenerateRequest(
            name, asked[which], Sampling(max_tokens=COUNT), str(len(jobs)), priority
        )
        jobs.append(GenerateJob(request, Kept()))
        path.add(jobs[-1])
        for _ in range(steps):
            path.step()
    while path.busy:
        path.step()
    for (name, which, _, _), job in zip(events, jobs, strict=True):
        assert same(answer(job), expected[name, which])
    assert path._schedule.blocks.available == blocks


class Watched(Blocks):
    """Knows of every block whose tokens it holds, from when they are whole until it is taken."""

    def __init__(self, count: int) -> None:
        super().__init__(count)
        self.content: dict[int, object] = {}

    def take(self) -> int:
        block = super().take()
        self.content.pop(block, None)
        return block

    def look(self, path: ContinuousPath) -> None:
        """What a sequence reads is its own version's, computed as it computes."""
        for sequence in path._schedule:
            for at in range(sequence.held // BLOCK):
                own = (sequence.version, sequence.apart, tuple(sequence.tokens[: (at + 1) * BLOCK]))
                assert self.content.setdefault(sequence.blocks[at], own) == own


@settings(
    max_examples=20,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
@given(
    events=st.lists(
        st.tuples(
            st.sampled_from(NAMES),
            st.integers(0, len(LENGTHS) - 1),
            st.sampled_from(["ask", "ask", "ask apart", "score", "cancel", "reload"]),
            st.integers(0, 3),
        ),
        min_size=2,
        max_size=10,
    ),
    blocks=st.integers(8, 20),
)
def test_arriving_leaving_and_unloading_change_nobodys_answer(
    path: ContinuousPath,
    version_of: VersionOf,
    expected: dict[tuple[str, int], Said],
    events: list[tuple[str, int, str, int]],
    blocks: int,
) -> None:
    watched = Watched(blocks)
    path._schedule = Schedule(watched, PROMPT_TOKENS)
    asked = prompts(LENGTHS, shared=20, seed=31)
    jobs: list[tuple[str, int, GenerateJob]] = []
    scored: list[tuple[str, int, ScoreJob]] = []
    for name, which, verb, steps in events:
        if verb == "cancel" and jobs:
            jobs[which % len(jobs)][2].cancelled = True
        elif verb == "reload" and not path.uses(name):
            path.unload(name)
            path.load(version_of(name))
        elif verb.startswith("ask"):
            sampling = Sampling(max_tokens=COUNT, deterministic=verb == "ask apart")
            request = GenerateRequest(name, asked[which], sampling, str(len(jobs)))
            jobs.append((name, which, GenerateJob(request, Kept())))
            path.add(jobs[-1][2])
        elif verb == "score":
            end = expected[name, which].tokens
            several = ScoreRequest(name, asked[which], (end, end[:3]), str(len(scored)))
            scored.append((name, which, ScoreJob(several, Kept())))
            path.add(scored[-1][2])
        for _ in range(steps):
            path.step()
            watched.look(path)
    while path.busy:
        path.step()
        watched.look(path)
    for name, which, job in jobs:
        told = answer(job)
        if told.finish_reason == "cancelled":
            whole = expected[name, which]
            assert told.tokens == whole.tokens[: len(told.tokens)]
        else:
            assert same(told, expected[name, which])
    for name, which, both in scored:
        told_of = expected[name, which].logprobs
        whole_score, beginning = scores(both)
        assert whole_score.logprobs == pytest.approx(told_of, abs=NATS)
        assert beginning.logprobs == pytest.approx(told_of[:3], abs=NATS)
    assert watched.available == blocks


def test_what_comes_under_a_name_reads_nothing_of_what_had_it(
    path: ContinuousPath, version_of: VersionOf, expected: dict[tuple[str, int], Said]
) -> None:
    path._schedule = Schedule(Blocks(80), PROMPT_TOKENS)
    prompt = prompts(LENGTHS, shared=20, seed=31)[3]
    for name in ("red", "blue", "red"):
        path.load(replace(version_of(name), version="one name"))
        first, again = (
            ask(path, "one name", [prompt], Sampling(max_tokens=COUNT))[0] for _ in range(2)
        )
        assert (first.usage.cached, again.usage.cached > 0) == (0, True)
        assert same(first, expected[name, 3])
        assert same(again, expected[name, 3])
        path.unload("one name")


def test_what_many_completions_follow_is_read_once(path: ContinuousPath) -> None:
    """All but its last token, whose logits each completion asks for."""
    path._schedule = Schedule(Blocks(80), PROMPT_TOKENS)
    [prompt], ends = prompts([70], seed=41), prompts([6] * 12, seed=42)
    job = ScoreJob(ScoreRequest("red", prompt, tuple(ends), "many"), Kept())
    path.add(job)
    with counting(path) as steps:
        while path.busy:
            path.step()
    assert sum(steps) == len(prompt) - 1 + sum(map(len, ends))
    first, *others = scores(job)
    assert len(others) == len(ends) - 1
    assert (first.cached, {score.cached for score in others}) == (0, {len(prompt) // BLOCK * BLOCK})


def test_the_interactive_go_first(path: ContinuousPath) -> None:
    path._schedule = Schedule(Blocks(8), PROMPT_TOKENS)
    jobs = []
    for i, priority in enumerate(("shadow", "batch", "interactive")):
        prompt = prompts([60], seed=90 + i)[0]
        request = GenerateRequest(
            "base",
            prompt,
            Sampling(max_tokens=3, stop=()),
            str(i),
            priority,  # type: ignore[arg-type]
        )
        jobs.append(GenerateJob(request, Kept()))
        path.add(jobs[-1])
    ended = []
    while path.busy:
        path.step()
        ended += [
            job.request.priority
            for job in jobs
            if job.request.priority not in ended
            and isinstance(job.mailbox, Kept)
            and job.mailbox.items
            and job.mailbox.items[-1].finish_reason
        ]
    assert ended == ["interactive", "batch", "shadow"]


def test_a_failed_step_costs_what_it_computed_and_nothing_more(
    path: ContinuousPath, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither what is computed apart in the same step, nor what comes next."""
    path._schedule = Schedule(Blocks(8), PROMPT_TOKENS)
    [first, apart, second] = [
        GenerateJob(GenerateRequest("red", prompt, sampling, "x"), Kept())
        for prompt, sampling in zip(
            prompts([9, 9, 9], seed=5),
            (Sampling(max_tokens=3), Sampling(max_tokens=3, deterministic=True)) * 2,
            strict=False,
        )
    ]
    forward, failed = path.model.forward, False

    def breaks_once(batch: Batch, cache: Cache) -> torch.Tensor:
        nonlocal failed
        if not failed:
            failed = True
            raise MemoryError("no room for a tensor")
        return forward(batch, cache)

    monkeypatch.setattr(path.model, "forward", breaks_once)
    path.add(first)
    path.add(apart)
    path.step()
    path.add(second)
    while path.busy:
        path.step()
    with pytest.raises(Exception, match="no room for a tensor"):
        answer(first)
    assert len(answer(apart).tokens) == len(answer(second).tokens) == 3
    assert path._schedule.blocks.available == 8
