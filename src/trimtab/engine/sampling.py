"""Draws the next token of every row from its logits.

A seeded row's randomness depends on the seed and the position alone: never on the batch, on other
rows or on what was drawn before. So the same request gives the same answer in any company.
"""

import hashlib
import math
from collections.abc import Sequence

import torch

from trimtab.errors import EngineError
from trimtab.inference import Sampling


def choose(
    logits: torch.Tensor, samplings: Sequence[Sampling], positions: Sequence[int]
) -> tuple[list[int], list[float]]:
    """The next token of each row, and its natural log-probability at temperature 1.

    `logits` is (rows, vocabulary); `positions` are the places in the sequences that the tokens
    will take. A row without a seed must be greedy. Where a row is not finite, its log-probability
    is not either, and its token means nothing.
    """
    logits = logits.float()
    normaliser = logits.logsumexp(dim=-1)
    finite = torch.isfinite(normaliser).tolist()
    tokens = logits.argmax(dim=-1).tolist()
    for row, (sampling, position) in enumerate(zip(samplings, positions, strict=True)):
        if sampling.temperature > 0 and finite[row]:
            tokens[row] = _draw(logits[row], sampling, uniform(sampling.seed or 0, position))
    chosen = logits.gather(1, torch.tensor(tokens, device=logits.device).unsqueeze(1)).squeeze(1)
    return tokens, (chosen - normaliser).tolist()


def not_finite() -> EngineError:
    """For the request whose logits are NaN or infinity."""
    return EngineError(
        "the model's logits are not finite", hint="its numbers overflow; use a wider dtype"
    )


def uniform(seed: int, position: int) -> float:
    """A number in [0, 1) that is a function of its arguments: 53 bits of a keyed BLAKE2b."""
    digest = hashlib.blake2b(f"{seed}:{position}".encode(), digest_size=8).digest()
    return (int.from_bytes(digest, "big") >> 11) * 2.0**-53


def _draw(logits: torch.Tensor, sampling: Sampling, point: float) -> int:
    """Invert the cumulative distribution, in the order of the vocabulary, at `point`."""
    # The maximum goes first: else a tiny temperature makes every weight infinite.
    above = logits.double() - logits.double().amax(dim=-1, keepdim=True)
    weights = _cut(above / sampling.temperature, sampling).softmax(dim=-1)
    cumulative = weights.cumsum(dim=-1)
    target = cumulative[-1] * point
    token = int(torch.searchsorted(cumulative, target, right=True))
    return min(token, int(weights.nonzero()[-1]))


def _cut(scores: torch.Tensor, sampling: Sampling) -> torch.Tensor:
    """Keep the `top_k` best tokens, and of them the fewest that hold `top_p` of the mass."""
    kept = scores
    if 0 < sampling.top_k < len(scores):
        kept = kept.masked_fill(kept < kept.topk(sampling.top_k).values[-1], -math.inf)
    if sampling.top_p < 1:
        weights, order = kept.softmax(dim=-1).sort(descending=True, stable=True)
        # The token that crosses the threshold is kept, so the mass before a token decides.
        beyond = weights.cumsum(dim=-1) - weights >= sampling.top_p
        kept = kept.masked_fill(beyond.scatter(0, order, beyond), -math.inf)
    return kept
