"""The log-probabilities of given tokens."""

from collections.abc import Sequence

import torch

AT_ONCE = 2**25
"""Logits that are widened to float32 at once: an eighth of a gigabyte."""


def logprobs_of(logits: torch.Tensor, tokens: Sequence[int]) -> list[float]:
    """In nats, of a token by its row of `logits` (tokens, vocabulary)."""
    wanted = torch.tensor(tokens, device=logits.device).unsqueeze(1)
    size = max(1, AT_ONCE // logits.shape[1])
    found = []
    for rows, own in zip(torch.split(logits, size), torch.split(wanted, size), strict=True):
        wide = rows.float()
        found.append(wide.gather(1, own).squeeze(1) - wide.logsumexp(dim=-1))
    told: list[float] = torch.cat(found).tolist()
    return told
