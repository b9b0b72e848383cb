"""PPO's mathematics over a batch of answers: token rewards, advantages, and the clipped losses.

Every tensor is [answers, tokens]; `mask` is 1 on the tokens of an answer and 0 behind its end. Pure
functions; Schulman et al. 2016 (advantages) and 2017 (PPO), Ziegler et al. 2019 (the penalty).
"""

import torch
from torch import Tensor


def token_rewards(rewards: Tensor, kl: Tensor, mask: Tensor, beta: float) -> Tensor:
    """The penalty at every token, and the answer's own reward, [answers], at its last one."""
    found = -beta * kl * mask
    last = mask.sum(dim=1).long() - 1
    rows = torch.arange(len(mask), device=mask.device)
    ends = torch.zeros_like(found)
    ends[rows, last.clamp(min=0)] = rewards.to(found)
    return found + ends * mask


def advantages(
    rewards: Tensor, values: Tensor, mask: Tensor, gamma: float, lam: float
) -> tuple[Tensor, Tensor]:
    """Generalised advantages and the returns that the values should have been."""
    rewards, values = rewards * mask, values * mask
    found = torch.zeros_like(values)
    carried = torch.zeros_like(values[:, 0])
    for at in reversed(range(values.shape[1])):
        after = values[:, at + 1] if at + 1 < values.shape[1] else torch.zeros_like(carried)
        delta = rewards[:, at] + gamma * after - values[:, at]
        carried = (delta + gamma * lam * carried) * mask[:, at]
        found[:, at] = carried
    return found, found + values


def whitened(values: Tensor, mask: Tensor, every: Tensor) -> Tensor:
    """Such that `every`, [tokens], all that count, would have mean 0 and deviation 1."""
    spread = every.var(correction=0)
    return (values - every.mean()) * torch.rsqrt(spread + 1e-8) * mask


def policy_losses(logps: Tensor, old: Tensor, advantage: Tensor, clip: float) -> Tensor:
    """The clipped surrogate of each token (Schulman et al. 2017, equation 7)."""
    ratio = torch.exp(logps - old)
    return -torch.min(ratio * advantage, ratio.clamp(1 - clip, 1 + clip) * advantage)


def value_losses(values: Tensor, old: Tensor, returns: Tensor, clip: float) -> Tensor:
    """Half the squared error, of the worse of the value and the value held near its old one."""
    near = old + (values - old).clamp(-clip, clip)
    return 0.5 * torch.max((values - returns).square(), (near - returns).square())


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    return (values * mask).sum() / mask.sum().clamp(min=1)
