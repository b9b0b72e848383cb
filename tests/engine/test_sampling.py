import math
from collections import Counter

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from trimtab.engine.sampling import choose, uniform
from trimtab.inference import Sampling

LOGITS = torch.tensor([0.0, 2.0, 1.0, -1.0, 1.9, -math.inf])


def draw(sampling: Sampling, position: int = 0) -> int:
    [token], _ = choose(LOGITS.unsqueeze(0), [sampling], [position])
    return token


def frequencies(sampling: Sampling, draws: int = 4000) -> dict[int, float]:
    """How often each token is drawn, one draw a position."""
    rows = LOGITS.expand(draws, -1)
    tokens, _ = choose(rows, [sampling] * draws, range(draws))
    return {token: count / draws for token, count in Counter(tokens).items()}


def test_without_temperature_the_best_token_is_taken() -> None:
    assert draw(Sampling(temperature=0.0, seed=1)) == 1


def test_logprobs_are_of_the_raw_distribution() -> None:
    hot = Sampling(temperature=5.0, top_k=2, seed=3)
    tokens, logprobs = choose(LOGITS.expand(2, -1), [hot, Sampling()], [0, 0])
    raw = LOGITS.log_softmax(-1)
    assert logprobs == pytest.approx([float(raw[token]) for token in tokens], abs=1e-6)


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


@given(seed=st.integers(0, 2**63), position=st.integers(0, 10**6))
def test_a_draw_is_a_function_of_seed_and_position(seed: int, position: int) -> None:
    sampling = Sampling(temperature=1.5, seed=seed)
    alone = draw(sampling, position)
    others = [Sampling(temperature=0.7, seed=9), sampling, Sampling()]
    tokens, _ = choose(LOGITS.expand(3, -1), others, [1, position, 5])
    assert tokens[1] == alone
    assert 0 <= uniform(seed, position) < 1


@given(
    logits=st.lists(st.floats(-40, 40, width=32), min_size=1, max_size=12),
    temperature=st.floats(0.01, 100),
    top_p=st.floats(0.001, 1),
    top_k=st.integers(0, 15),
    seed=st.integers(0, 2**32),
)
def test_only_tokens_that_can_come_are_drawn(
    logits: list[float], temperature: float, top_p: float, top_k: int, seed: int
) -> None:
    sampling = Sampling(temperature=temperature, top_p=top_p, top_k=top_k, seed=seed)
    [token], [logprob] = choose(torch.tensor([[*logits, -math.inf]]), [sampling], [0])
    assert token < len(logits)
    assert math.isfinite(logprob)


@pytest.mark.parametrize("broken", [math.nan, math.inf])
def test_a_row_that_is_not_finite_spoils_no_other(broken: float) -> None:
    logits = torch.tensor([[0.0, broken], [0.0, 3.0]])
    tokens, logprobs = choose(logits, [Sampling(temperature=1.0, seed=1), Sampling()], [0, 0])
    assert not math.isfinite(logprobs[0])
    assert tokens[1] == 1
    assert math.isfinite(logprobs[1])
