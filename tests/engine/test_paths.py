"""Every path against transformers and PEFT: alone, in company, with and without adapters."""

import random
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.engine.conftest import VersionOf
from tests.engine.paths import (
    FAST,
    KINDS,
    AnyPath,
    Kept,
    answer,
    ask,
    items,
    load,
    make_path,
    run,
    score,
    scores,
)
from tests.engine.reference import Reference, Said
from tests.tiny import build_adapter
from trimtab.engine.continuous.blocks import BLOCK
from trimtab.engine.continuous.path import ContinuousPath
from trimtab.engine.jobs import GenerateJob, ScoreJob
from trimtab.errors import EngineOverloaded
from trimtab.inference import Completion, GenerateRequest, Sampling, ScoreRequest, VersionFiles
from trimtab.text.tokenizer import Tokenizer

NATS = 1e-4
NAMES = ("base", "red", "blue")


@pytest.fixture(scope="module", params=KINDS)
def path(request: pytest.FixtureRequest, base: Path, version_of: VersionOf) -> AnyPath:
    path = make_path(base, request.param)
    for name in NAMES:
        load(path, version_of(name))
    return path


@pytest.fixture(scope="module")
def references(base: Path, adapters: dict[str, Path]) -> dict[str, Reference]:
    return {name: Reference(base, adapters.get(name)) for name in NAMES}


def prompts(lengths: Sequence[int], shared: int = 0, seed: int = 0) -> list[tuple[int, ...]]:
    """Random prompts that have their first `shared` tokens in common."""
    source = random.Random(seed)
    prefix = [source.randrange(3, 300) for _ in range(shared)]
    return [tuple(prefix + [source.randrange(3, 300) for _ in range(length)]) for length in lengths]


def same(completion: Completion, said: Said) -> bool:
    return completion.tokens == said.tokens and completion.logprobs == pytest.approx(
        said.logprobs, abs=NATS
    )


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("shared", [0, 30], ids=["no prefix", "shared prefix"])
def test_greedy_answers_equal_those_of_transformers_and_peft(
    path: AnyPath, references: dict[str, Reference], name: str, shared: int
) -> None:
    asked = prompts([1, 5, 12, 40], shared)
    together = ask(path, name, asked, Sampling(max_tokens=12))
    for prompt, completion in zip(asked, together, strict=True):
        said = references[name].greedy(prompt, 12)
        assert same(completion, said)
        assert same(ask(path, name, [prompt], Sampling(max_tokens=12))[0], said)


def test_the_adapters_of_these_tests_change_the_answer(path: AnyPath) -> None:
    [prompt] = prompts([20])
    answers = {ask(path, name, [prompt], Sampling(max_tokens=8))[0].tokens for name in NAMES}
    assert len(answers) == len(NAMES)


def test_a_shared_prefix_is_computed_once_and_counted(path: AnyPath) -> None:
    together = ask(path, "base", prompts([4, 9, 3], shared=40, seed=77), Sampling(max_tokens=2))
    told = 40 // BLOCK * BLOCK if isinstance(path, ContinuousPath) else 40
    assert [answer.usage.cached for answer in together] == [0, told, told]
    assert [answer.usage.prompt for answer in together] == [44, 49, 43]


def test_rows_that_end_early_do_not_disturb_the_others(
    path: AnyPath, references: dict[str, Reference]
) -> None:
    """Every row has another length, so the batch shrinks at almost every step."""
    asked = prompts([3, 8, 13, 5, 21, 2], shared=0, seed=5)
    jobs = [
        GenerateJob(GenerateRequest("blue", prompt, Sampling(max_tokens=2 * i + 1), str(i)), Kept())
        for i, prompt in enumerate(asked)
    ]
    for job in jobs:
        path.add(job)
    run(path)
    for i, (prompt, job) in enumerate(zip(asked, jobs, strict=True)):
        assert same(answer(job), references["blue"].greedy(prompt, 2 * i + 1))


def test_an_answer_ends_at_its_stop_token_and_counts_it(
    path: AnyPath, base: Path, references: dict[str, Reference]
) -> None:
    [prompt] = prompts([10])
    said = references["base"].greedy(prompt, 8, stop=-1).tokens
    stop = said[3]
    load(path, VersionFiles("base, stops early", base, None, base, (stop,)))
    [answer] = ask(path, "base, stops early", [prompt], Sampling(max_tokens=8))
    until = said.index(stop)
    assert answer.finish_reason == "stop"
    assert answer.tokens == said[: until + 1]
    assert answer.text == Tokenizer(base).decode(said[:until])
    assert answer.usage.completion == until + 1


def test_a_stop_string_ends_the_answer_even_over_token_borders(
    path: AnyPath, references: dict[str, Reference], base: Path
) -> None:
    [prompt] = prompts([10], seed=3)
    whole = ask(path, "red", [prompt], Sampling(max_tokens=16))[0]
    tokenizer = Tokenizer(base)
    # From the middle of one token's text to the middle of another's.
    early, late = (len(tokenizer.decode(whole.tokens[:count])) for count in (4, 7))
    stop = whole.text[early - 1 : late + 1]
    assert len(stop) > 1
    [answer] = ask(path, "red", [prompt], Sampling(max_tokens=16, stop=("never", stop)))
    assert answer.finish_reason == "stop"
    assert answer.text == whole.text[: whole.text.index(stop)]
    assert len(answer.tokens) < len(whole.tokens)


def test_a_penalty_is_each_rows_own(path: AnyPath, references: dict[str, Reference]) -> None:
    asked = prompts([12, 30, 5, 21], seed=17)
    penalties = (1.0, 1.4, 1.0, 0.8)
    jobs = [
        GenerateJob(
            GenerateRequest(
                "red", prompt, Sampling(max_tokens=10, repetition_penalty=penalty), str(i)
            ),
            Kept(),
        )
        for i, (prompt, penalty) in enumerate(zip(asked, penalties, strict=True))
    ]
    for job in jobs:
        path.add(job)
    run(path)
    for prompt, penalty, job in zip(asked, penalties, jobs, strict=True):
        said = references["red"].greedy(prompt, 10, repetition_penalty=penalty)
        assert same(answer(job), said)


def test_the_likeliest_tokens_are_told_beside_the_chosen(
    path: AnyPath, references: dict[str, Reference]
) -> None:
    [prompt] = prompts([18], seed=2)
    [told] = ask(path, "blue", [prompt], Sampling(max_tokens=4, top_logprobs=3))
    for at, top in enumerate(told.top):
        before = (*prompt, *told.tokens[:at])
        assert top[0] == (told.tokens[at], told.logprobs[at])
        assert list(top) == sorted(top, key=lambda pair: -pair[1])
        for token, logprob in top:
            [expected] = references["blue"].score(before, (token,))
            assert logprob == pytest.approx(expected, abs=NATS)
    assert [len(top) for top in told.top] == [3] * len(told.tokens)


def test_a_stop_token_of_the_request_ends_it_beside_those_of_the_version(
    path: AnyPath, references: dict[str, Reference]
) -> None:
    [prompt] = prompts([10], seed=21)
    said = references["base"].greedy(prompt, 8).tokens
    until = said.index(said[2])
    [told] = ask(path, "base", [prompt], Sampling(max_tokens=8, stop_tokens=(said[2], 399)))
    assert told.finish_reason == "stop"
    assert told.tokens == said[: until + 1]


@pytest.mark.parametrize("name", NAMES)
def test_scores_equal_a_plain_forward_pass(
    path: AnyPath, references: dict[str, Reference], name: str
) -> None:
    asked = prompts([1, 30, 7, 7], shared=0) + prompts([3, 9], shared=40)
    ends = prompts([9, 1, 20, 4, 6, 2], seed=9)
    rows = list(zip(asked, ends, strict=True))
    for (prompt, end), found in zip(rows, score(path, name, rows), strict=True):
        assert found.logprobs == pytest.approx(references[name].score(prompt, end), abs=NATS)
        assert found.total == sum(found.logprobs)


def test_many_completions_of_one_prompt_are_scored_in_order(
    path: AnyPath, references: dict[str, Reference]
) -> None:
    [prompt] = prompts([70])
    ends = prompts([5, 1, 8, 3] * 6, seed=4)
    job = ScoreJob(ScoreRequest("red", prompt, (*ends, ()), "1"), Kept())
    path.add(job)
    run(path)
    *found, empty = scores(job)
    assert empty.total == 0
    for end, one in zip(ends, found, strict=True):
        assert one.logprobs == pytest.approx(references["red"].score(prompt, end), abs=NATS)


def test_a_generated_answer_scores_as_it_was_generated(path: AnyPath) -> None:
    [prompt] = prompts([25], seed=8)
    [answer] = ask(path, "blue", [prompt], Sampling(max_tokens=10))
    [found] = score(path, "blue", [(prompt, answer.tokens)])
    assert found.logprobs == pytest.approx(answer.logprobs, abs=NATS)


def test_the_merged_version_says_what_the_unmerged_one_says(
    base: Path, version_of: VersionOf
) -> None:
    path = make_path(base, "static")
    load(path, version_of("red"))
    load(path, version_of("red+merged"))
    rows = list(zip(prompts([5, 20, 33]), prompts([10, 10, 10], seed=2), strict=True))
    apart, merged = score(path, "red", rows), score(path, "red+merged", rows)
    for one, other in zip(apart, merged, strict=True):
        assert one.logprobs == pytest.approx(other.logprobs, abs=NATS)


def test_the_stream_of_a_seed_does_not_depend_on_the_company(path: AnyPath) -> None:
    sampling = Sampling(max_tokens=12, temperature=1.3, top_p=0.95, seed=41)
    asked = prompts([6, 30, 14, 9], seed=6)
    alone = [ask(path, "base", [prompt], sampling)[0].tokens for prompt in asked]
    assert [answer.tokens for answer in ask(path, "base", asked, sampling)] == alone
    assert len(set(alone)) == len(alone)


def test_answers_without_a_seed_differ(path: AnyPath) -> None:
    [prompt] = prompts([6])
    sampling = Sampling(max_tokens=12, temperature=1.5)
    answers = {answer.tokens for answer in ask(path, "base", [prompt] * 4, sampling)}
    assert len(answers) > 1


def test_logprobs_of_drawn_tokens_are_those_of_the_raw_distribution(
    path: AnyPath, references: dict[str, Reference]
) -> None:
    [prompt] = prompts([11])
    sampling = Sampling(max_tokens=6, temperature=0.7, top_k=5, seed=1)
    [answer] = ask(path, "base", [prompt], sampling)
    assert answer.logprobs == pytest.approx(
        references["base"].score(prompt, answer.tokens), abs=NATS
    )


def test_a_request_that_nobody_wants_ends_and_the_others_go_on(
    path: AnyPath, references: dict[str, Reference]
) -> None:
    asked = prompts([7, 9, 4])
    jobs = [
        GenerateJob(GenerateRequest("base", p, Sampling(max_tokens=10), str(i)), Kept())
        for i, p in enumerate(asked)
    ]
    for job in jobs:
        path.add(job)
    while path.busy:
        path.step()
        jobs[1].cancelled = len(items(jobs[1])) >= 3
    assert answer(jobs[1]).finish_reason == "cancelled"
    assert len(answer(jobs[1]).tokens) in (3, 4)
    for i in (0, 2):
        assert same(answer(jobs[i]), references["base"].greedy(asked[i], 10))


@pytest.mark.parametrize("kind", KINDS)
@settings(deadline=None, max_examples=15, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.lists(
        st.sampled_from(
            ["red", "blue", "load red", "unload red", "load blue", "unload blue", "base"]
        ),
        min_size=4,
        max_size=12,
    )
)
def test_no_order_of_loading_and_asking_mixes_versions(
    base: Path,
    version_of: VersionOf,
    references: dict[str, Reference],
    kind: str,
    schedule: list[str],
) -> None:
    path = swapping(base, version_of, kind)
    held = {"base"}
    [prompt] = prompts([9], seed=12)
    for event in schedule:
        verb, _, name = event.rpartition(" ")
        if verb == "load" and name not in held:
            load(path, version_of(name))
            held.add(name)
        elif verb == "unload":
            path.unload(name)
            held.discard(name)
        elif not verb and name in held:
            assert same(
                ask(path, name, [prompt], Sampling(max_tokens=4))[0],
                references[name].greedy(prompt, 4),
            )


_SWAPPING: dict[tuple[Path, str], AnyPath] = {}


def swapping(base: Path, version_of: VersionOf, kind: str) -> AnyPath:
    """One path for all examples of the property: what an earlier one left behind is part of it."""
    if (base, kind) not in _SWAPPING:
        _SWAPPING[base, kind] = make_path(base, kind)
    path = _SWAPPING[base, kind]
    for name in NAMES:
        path.unload(name)
    load(path, version_of("base"))
    return path


@pytest.mark.parametrize("kind", KINDS)
def test_many_adapters_loaded_at_once_stay_apart(tmp_path: Path, base: Path, kind: str) -> None:
    """More than ten: PEFT finds an adapter's tensors by looking for its name in their keys."""
    path = make_path(base, kind)
    folders = {f"v{i}": build_adapter(tmp_path / f"v{i}", base, seed=50 + i) for i in range(12)}
    for name, folder in folders.items():
        load(path, VersionFiles(name, base, folder, base, (2,)))
    [prompt], [end] = prompts([9]), prompts([6], seed=1)
    for name in ("v0", "v1", "v9", "v10", "v11"):
        [found] = score(path, name, [(prompt, end)])
        expected = Reference(base, folders[name]).score(prompt, end)
        assert found.logprobs == pytest.approx(expected, abs=NATS)


def test_one_that_waited_too_long_for_its_turn_is_not_begun(base: Path) -> None:
    path = make_path(base, FAST)
    load(path, VersionFiles("base", base, None, base, ()))
    sampling = Sampling(max_tokens=3)
    first, hasty = (
        GenerateJob(GenerateRequest("base", (5, 6), sampling, "1", patience_s=s), Kept())
        for s in (60.0, 0.0)
    )
    path.add(first)
    path.add(hasty)
    run(path)
    assert items(first)[-1].finish_reason == "length"
    with pytest.raises(EngineOverloaded, match="did not begin"):
        answer(hasty)
