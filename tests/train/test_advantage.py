"""PPO's mathematics against sums written out by hand."""

import math
import random

import pytest
import torch

from trimtab.train.online.advantage import (
    advantages,
    policy_losses,
    token_rewards,
    value_losses,
    whitened,
)


def by_hand(
    rewards: list[float], values: list[float], gamma: float, lam: float
) -> tuple[list[float], list[float]]:
    """The sum of the definition, term by term (Schulman et al. 2016, equation 16)."""
    deltas = [
        reward + gamma * (values[at + 1] if at + 1 < len(values) else 0.0) - values[at]
        for at, reward in enumerate(rewards)
    ]
    found = [
        sum((gamma * lam) ** (later - at) * deltas[later] for later in range(at, len(deltas)))
        for at in range(len(deltas))
    ]
    return found, [a + v for a, v in zip(found, values, strict=True)]


@pytest.mark.parametrize(("gamma", "lam"), [(1.0, 0.95), (0.9, 0.5), (1.0, 1.0), (0.5, 0.0)])
def test_advantages_are_the_sum_of_the_definition(gamma: float, lam: float) -> None:
    draw = random.Random(4)
    lengths = [7, 3, 5]
    rewards, values, mask = (torch.zeros(3, 7, dtype=torch.float64) for _ in range(3))
    for row, length in enumerate(lengths):
        for at in range(length):
            rewards[row, at], values[row, at], mask[row, at] = draw.gauss(), draw.gauss(), 1
    found, returns = advantages(rewards, values + 9 * (1 - mask), mask, gamma, lam)
    for row, length in enumerate(lengths):
        wanted, due = by_hand(
            rewards[row, :length].tolist(), values[row, :length].tolist(), gamma, lam
        )
        assert found[row, :length].tolist() == pytest.approx(wanted)
        assert returns[row, :length].tolist() == pytest.approx(due)
        assert not found[row, length:].any()


def test_the_reward_comes_at_the_end_and_the_penalty_everywhere() -> None:
    mask = torch.tensor([[1.0, 1, 1, 0], [1, 0, 0, 0]])
    kl = torch.full((2, 4), 0.5)
    found = token_rewards(torch.tensor([2.0, -1.0]), kl, mask, beta=0.2)
    assert torch.allclose(found, torch.tensor([[-0.1, -0.1, 1.9, 0], [-1.1, 0, 0, 0]]))


def test_whitening_counts_what_counts() -> None:
    mask = torch.tensor([[1.0, 1, 1, 0]])
    values = torch.tensor([[1.0, 2, 3, 99]])
    found = whitened(values, mask, values[mask.bool()])
    assert found.sum().item() == pytest.approx(0, abs=1e-6)
    assert found[0, 2].item() == pytest.approx(math.sqrt(1.5), abs=1e-4)
    assert found[0, 3].item() == 0


def test_a_step_beyond_the_clip_has_no_gradient() -> None:
    old = torch.zeros(1, 2)
    logps = torch.tensor([[0.5, 0.05]], requires_grad=True)
    loss = policy_losses(logps, old, torch.ones(1, 2), clip=0.2).mean()
    assert loss.item() == pytest.approx(-(1.2 + math.exp(0.05)) / 2)
    loss.backward()  # type: ignore[no-untyped-call]
    assert logps.grad is not None
    assert logps.grad[0, 0] == 0
    assert logps.grad[0, 1] < 0


def test_a_value_far_from_its_old_one_costs_the_worse() -> None:
    values, old = torch.tensor([[1.0]]), torch.tensor([[0.0]])
    loss = value_losses(values, old, torch.tensor([[1.0]]), clip=0.2)
    assert loss.item() == pytest.approx(0.5 * 0.8**2)
