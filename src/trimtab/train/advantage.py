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


def whitened(values: Tensor, mask: Tensor) -> Tensor:
    """Mean 0 and deviation 1 over the tokens that count."""
    count = mask.sum().clamp(min=1)
    mean = (values * mask).sum() / count
    spread = ((values - mean).square() * mask).sum() / count
    return (values - mean) * torch.rsqrt(spread + 1e-8) * mask


def policy_loss(logps: Tensor, old: Tensor, advantage: Tensor, mask: Tensor, clip: float) -> Tensor:
    """The clipped surrogate, a mean over tokens (Schulman et al. 2017, equation 7)."""
    ratio = torch.exp(logps - old)
    worse = torch.min(ratio * advantage, ratio.clamp(1 - clip, 1 + clip) * advantage)
    return -masked_mean(worse, mask)


def value_loss(values: Tensor, old: Tensor, returns: Tensor, mask: Tensor, clip: float) -> Tensor:
    """Half the squared error, of the worse of the value and the value held near its old one."""
    near = old + (values - old).clamp(-clip, clip)
    worse = torch.max((values - returns).square(), (near - returns).square())
    return 0.5 * masked_mean(worse, mask)


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    return (values * mask).sum() / mask.sum().clamp(min=1)
