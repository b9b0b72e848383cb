"""Drawing tokens: by hand on six logits, and against the processors of transformers row by row."""

import math
import random
from collections import Counter
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import (
    LogitsProcessorList,
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from trimtab.engine.sampling.drawing import draw_all
from trimtab.engine.sampling.drawn import Drawn
from trimtab.engine.sampling.sampler import Sampler, _draw, choose, uniform
from trimtab.errors import EngineError, RequestRefused
from trimtab.inference import GenerateRequest, Sampling

LOGITS = torch.tensor([0.0, 2.0, 1.0, -1.0, 1.9, -math.inf])


def sampler(
    sampling: Sampling,
    position: int = 0,
    prompt: tuple[int, ...] = (),
    answer: tuple[int, ...] = (),
) -> Sampler:
    """Of a request whose `answer` has come already; `position` goes before what follows of it."""
    made = Sampler(GenerateRequest("v", prompt, sampling, "1"))
    for token in answer:
        made.took(token)
    made.position = position
    return made


def chosen(logits: torch.Tensor, samplers: list[Sampler]) -> list[Drawn]:
    drawn = choose(logits, samplers)
    assert all(isinstance(one, Drawn) for one in drawn)
    return drawn  # type: ignore[return-value]


def draw(sampling: Sampling, position: int = 0) -> int:
    [drawn] = chosen(LOGITS.unsqueeze(0), [sampler(sampling, position)])
    return drawn.token


def frequencies(sampling: Sampling, draws: int = 4000) -> dict[int, float]:
    """How often each token is drawn, one draw a position."""
    rows = LOGITS.expand(draws, -1)
    drawn = chosen(rows, [sampler(sampling, at) for at in range(draws)])
    return {token: n / draws for token, n in Counter(one.token for one in drawn).items()}


def test_without_temperature_the_best_token_is_taken() -> None:
    assert draw(Sampling(temperature=0.0, seed=1)) == 1


def test_logprobs_are_of_the_raw_distribution() -> None:
    hot = Sampling(temperature=5.0, top_k=2, seed=3, presence_penalty=1.0, top_logprobs=3)
    drawn = chosen(LOGITS.expand(2, -1), [sampler(hot, answer=(1,)), sampler(Sampling())])
    raw = LOGITS.log_softmax(-1)
    for one in drawn:
        assert one.logprob == pytest.approx(float(raw[one.token]), abs=1e-6)
    assert [token for token, _ in drawn[0].top] == [1, 4, 2]
    assert [logprob for _, logprob in drawn[0].top] == pytest.approx(raw[[1, 4, 2]].tolist())
    assert drawn[1].top == ()


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_tokens_come_as_often_as_their_probability_says(temperature: float) -> None:
    expected = (LOGITS / temperature).softmax(-1)
    seen = frequencies(Sampling(temperature=temperature, seed=11))
    for token, probability in enumerate(expected.tolist()):
        # Five standard deviations of a share of 4000 draws.
        assert seen.get(token, 0.0) == pytest.approx(probability, abs=0.04)
    assert 5 not in seen


def test_top_k_keeps_the_best() -> None:
    assert set(frequencies(Sampling(temperature=3.0, top_k=3, seed=5), 400)) == {1, 2, 4}


def test_top_p_keeps_the_fewest_that_hold_the_mass() -> None:
    # The probabilities in order are 0.40, 0.36, 0.15, 0.05, 0.02.
    assert set(frequencies(Sampling(temperature=1.0, top_p=0.39, seed=5), 400)) == {1}
    assert set(frequencies(Sampling(temperature=1.0, top_p=0.6, seed=5), 400)) == {1, 4}
    assert set(frequencies(Sampling(temperature=1.0, top_p=0.8, seed=5), 400)) == {1, 2, 4}


def test_top_p_cuts_what_top_k_left() -> None:
    both = Sampling(temperature=1.0, top_k=2, top_p=0.5, seed=5)
    assert set(frequencies(both, 400)) == {1}


def test_min_p_keeps_what_is_likely_beside_the_best() -> None:
    # The ratios to the best are 1, 0.90, 0.37, 0.14, 0.05.
    assert set(frequencies(Sampling(temperature=1.0, min_p=0.3, seed=5), 400)) == {1, 2, 4}
    assert set(frequencies(Sampling(temperature=1.0, min_p=1.0, seed=5), 400)) == {1}


samplings = st.builds(
    Sampling,
    temperature=st.floats(0.1, 5),
    top_k=st.sampled_from([0, 1, 3, 50, 1000]),
    top_p=st.sampled_from([1.0, 0.05, 0.5, 0.9, 0.999]),
    min_p=st.sampled_from([0.0, 0.01, 0.3]),
    repetition_penalty=st.sampled_from([1.0, 0.7, 1.3, 2.0]),
    presence_penalty=st.sampled_from([0.0, -1.0, 0.5, 2.0]),
    frequency_penalty=st.sampled_from([0.0, -0.5, 0.2, 2.0]),
    seed=st.integers(0, 2**63 - 1),
)
histories = st.lists(st.integers(0, 599), max_size=30).map(tuple)


def reference(
    logits: torch.Tensor, sampling: Sampling, prompt: tuple[int, ...], answer: tuple[int, ...]
) -> torch.Tensor:
    """The distribution (vocabulary,) that transformers draws from. Presence and frequency are by
    OpenAI's formula, which transformers has not."""
    repetition: Any = RepetitionPenaltyLogitsProcessor(sampling.repetition_penalty)
    scores = logits.double().unsqueeze(0)
    if prompt or answer:
        scores = repetition(torch.tensor([[*prompt, *answer]]), scores)
    for token, times in Counter(answer).items():
        scores[0, token] -= sampling.frequency_penalty * times + sampling.presence_penalty
    if sampling.temperature == 0:
        return scores[0]
    warpers: list[Any] = [TemperatureLogitsWarper(sampling.temperature)]
    if sampling.top_k:
        warpers.append(TopKLogitsWarper(sampling.top_k))
    if sampling.top_p < 1:
        warpers.append(TopPLogitsWarper(sampling.top_p))
    if sampling.min_p:
        warpers.append(MinPLogitsWarper(sampling.min_p))
    processed: Any = LogitsProcessorList(warpers)(torch.tensor([[0]]), scores)
    return processed[0].softmax(-1)  # type: ignore[no-any-return]


@settings(max_examples=60, deadline=None)
@given(rows=st.lists(st.tuples(samplings, histories, histories), min_size=1, max_size=4))
def test_each_row_of_a_mixed_batch_draws_as_transformers_would(
    rows: list[tuple[Sampling, tuple[int, ...], tuple[int, ...]]],
) -> None:
    """The token is where the reference's cumulative distribution passes the seed's point."""
    generator = torch.Generator().manual_seed(len(rows))
    logits = torch.randn(len(rows) + 1, 600, generator=generator) * 3
    samplers = [sampler(sampling, 7, prompt, answer) for sampling, prompt, answer in rows]
    drawn = chosen(logits, [*samplers, sampler(Sampling())])
    for one, row, (sampling, prompt, answer) in zip(drawn, logits, rows, strict=False):
        expected = reference(row, sampling, prompt, answer)
        cumulative = expected.cumsum(-1)
        point = uniform(sampling.seed or 0, 7)
        before = cumulative[one.token] - expected[one.token]
        assert expected[one.token] > 0
        assert before - 1e-6 <= point <= cumulative[one.token] + 1e-6
        assert one.logprob == pytest.approx(float(row.log_softmax(-1)[one.token]), abs=1e-4)
    assert drawn[-1].token == int(logits[-1].argmax())


@given(sampling=samplings, prompt=histories, answer=histories)
def test_penalties_decide_a_greedy_answer_too(
    sampling: Sampling, prompt: tuple[int, ...], answer: tuple[int, ...]
) -> None:
    greedy = Sampling(
        repetition_penalty=sampling.repetition_penalty,
        presence_penalty=sampling.presence_penalty,
        frequency_penalty=sampling.frequency_penalty,
    )
    logits = torch.randn(600, generator=torch.Generator().manual_seed(2))
    [drawn] = chosen(logits.unsqueeze(0), [sampler(greedy, 0, prompt, answer)])
    best = reference(logits, greedy, prompt, answer)
    assert float(best[drawn.token]) == pytest.approx(float(best.max()), abs=1e-6)


@given(
    weights=st.lists(st.floats(-30, 5, width=32), min_size=1, max_size=700),
    top_p=st.floats(0.001, 0.999),
    point=st.integers(0, 2**40),
)
def test_a_nucleus_found_among_the_best_is_that_of_a_whole_sort(
    weights: list[float], top_p: float, point: int
) -> None:
    logits = torch.tensor(weights)
    sampling = Sampling(temperature=1.0, top_p=top_p, seed=point)
    [drawn] = chosen(logits.unsqueeze(0), [sampler(sampling)])
    probabilities, order = logits.double().softmax(-1).sort(descending=True, stable=True)
    kept = order[probabilities.cumsum(-1) - probabilities < top_p + 1e-9]
    assert drawn.token in kept.tolist()


@given(seed=st.integers(0, 2**63), position=st.integers(0, 10**6))
def test_a_draw_is_a_function_of_seed_and_position(seed: int, position: int) -> None:
    sampling = Sampling(temperature=1.5, seed=seed)
    alone = draw(sampling, position)
    others = [
        sampler(Sampling(temperature=0.7, seed=9), 1),
        sampler(sampling, position),
        sampler(Sampling(), 5),
    ]
    assert chosen(LOGITS.expand(3, -1), others)[1].token == alone
    assert 0 <= uniform(seed, position) < 1


@given(
    logits=st.lists(st.floats(-40, 40, width=32), min_size=1, max_size=12),
    temperature=st.floats(0.01, 100),
    top_p=st.floats(0.001, 1),
    top_k=st.integers(0, 15),
    min_p=st.floats(0, 1),
    seed=st.integers(0, 2**32),
)
def test_only_tokens_that_can_come_are_drawn(
    logits: list[float], temperature: float, top_p: float, top_k: int, min_p: float, seed: int
) -> None:
    sampling = Sampling(temperature=temperature, top_p=top_p, top_k=top_k, min_p=min_p, seed=seed)
    [drawn] = chosen(torch.tensor([[*logits, -math.inf]]), [sampler(sampling)])
    assert drawn.token < len(logits)
    assert math.isfinite(drawn.logprob)


@pytest.mark.parametrize("broken", [math.nan, math.inf])
def test_a_row_that_is_not_finite_spoils_no_other(broken: float) -> None:
    logits = torch.tensor([[0.0, broken], [0.0, 3.0]])
    [first, second] = choose(
        logits, [sampler(Sampling(temperature=1.0, seed=1)), sampler(Sampling())]
    )
    assert isinstance(first, EngineError)
    assert isinstance(second, Drawn)
    assert second.token == 1
    assert math.isfinite(second.logprob)


def test_rows_that_ask_for_nothing_are_not_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    def looked_at(*_: object) -> int:
        raise AssertionError("a plain row was drawn by itself")

    plain = [sampler(Sampling(seed=3)), sampler(Sampling(top_p=0.5, top_k=3, min_p=0.2))]
    monkeypatch.setattr(Sampler, "pick", looked_at)
    assert [one.token for one in chosen(LOGITS.expand(2, -1), plain)] == [1, 1]


@pytest.mark.parametrize("greedy", [True, False])
def test_a_penalty_that_leaves_no_number_costs_its_own_row_alone(greedy: bool) -> None:
    wild = Sampling(temperature=0.0 if greedy else 1.0, top_p=0.9, seed=1, repetition_penalty=1e-38)
    rows = torch.tensor([[0.0, 2.0, 1e6]]).expand(2, -1)
    refused, drawn = choose(rows, [sampler(wild, 0, prompt=(2,)), sampler(Sampling())])
    assert isinstance(refused, RequestRefused)
    assert isinstance(drawn, Drawn)
    assert drawn.token == 2


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**20), st.integers(1, 6))
def test_many_rows_at_once_are_drawn_as_each_is(seed: int, count: int) -> None:
    """Flat and steep rows, of equal weights and of tokens that may not come."""
    source = random.Random(seed)
    generator = torch.Generator().manual_seed(seed)
    scores = torch.randn(count, 700, generator=generator) * source.choice([0.1, 1, 8])
    if source.random() < 0.5:
        scores = scores.round()
    scores[:, source.randrange(1, 700) :: 3] = -math.inf
    samplings = [
        Sampling(
            temperature=source.choice([0.05, 0.7, 1.5]),
            top_k=source.choice([0, 1, 5, 699, 5000]),
            top_p=source.choice([0.1, 0.9, 1.0]),
            min_p=source.choice([0.0, 0.05, 0.5]),
        )
        for _ in range(count)
    ]
    points = [source.choice([0.0, source.random(), 1 - 2**-53]) for _ in range(count)]
    each = [_draw(*row) for row in zip(scores, samplings, points, strict=True)]
    assert draw_all(scores, samplings, points) == each


def test_rows_that_are_too_many_at_once_are_drawn_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    scores = torch.randn(5, 40, generator=torch.Generator().manual_seed(1))
    samplings = [Sampling(temperature=1.0, top_p=p) for p in (0.2, 0.5, 0.8, 0.9, 1.0)]
    points = [0.1, 0.3, 0.5, 0.7, 0.9]
    at_once = draw_all(scores, samplings, points)
    for numbers in (1, 80, 81):
        monkeypatch.setattr("trimtab.engine.sampling.drawing.AT_ONCE", numbers)
        assert draw_all(scores, samplings, points) == at_once
