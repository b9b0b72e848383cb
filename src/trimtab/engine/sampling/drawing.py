"""Draws for many rows at once: on a GPU each question costs as much as the answers to all.

The same distributions as in `sampling`, whose way is to look at one row, and at no more of its
tokens than need be.
"""

from collections.abc import Callable, Sequence

import torch

from trimtab.inference import Sampling

AT_ONCE = 2**22
"""Numbers of `scores` that are worked on at once: each costs some hundred bytes meanwhile."""

Each = Callable[[Sequence[float]], torch.Tensor]


def draw_all(
    scores: torch.Tensor, samplings: Sequence[Sampling], points: Sequence[float]
) -> list[int]:
    """A token for each row of `scores` (rows, vocabulary): the cumulative distribution, in the
    order of the vocabulary, inverted at the row's point. No temperature is zero.
    """
    size = max(1, AT_ONCE // scores.shape[1])
    return [
        token
        for start in range(0, len(scores), size)
        for token in _drawn(
            scores[start : start + size],
            samplings[start : start + size],
            points[start : start + size],
        )
    ]


def _drawn(
    scores: torch.Tensor, samplings: Sequence[Sampling], points: Sequence[float]
) -> list[int]:
    def each(values: Sequence[float]) -> torch.Tensor:
        told = torch.tensor(values, dtype=torch.float64, device=scores.device)
        return told.unsqueeze(1)

    wide = scores.double()
    # The maximum goes first: else a tiny temperature makes every weight infinite.
    weights = (wide - wide.amax(1, keepdim=True)) / each([s.temperature for s in samplings])
    weights = weights.exp()
    if any(s.top_k or s.top_p < 1 or s.min_p for s in samplings):
        weights = _kept(weights, samplings, each)
    cumulative = weights.cumsum(dim=1)
    places = torch.searchsorted(cumulative, cumulative[:, -1:] * each(points), right=True)
    # A point may be rounded up to the whole, behind the last token that can come.
    column = torch.arange(weights.shape[1], device=scores.device)
    last = torch.where(weights > 0, column, -1).amax(1)
    tokens: list[int] = torch.minimum(places.squeeze(1), last).tolist()
    return tokens


def _kept(weights: torch.Tensor, samplings: Sequence[Sampling], each: Each) -> torch.Tensor:
    """`weights`, and nought for the tokens that may not come: all but the `top_k` best; of those
    all but the fewest that hold `top_p` of the mass; of those what weighs less than `min_p` of the
    best, which weighs 1.
    """
    size = weights.shape[1]
    # Of equal weights the first goes first.
    ordered, order = weights.sort(dim=1, descending=True, stable=True)
    rank = each([min(s.top_k, size) if s.top_k else size for s in samplings]).long() - 1
    # As many as are equal to the last of them.
    kept = ordered >= ordered.gather(1, rank)
    among = torch.where(kept, ordered, 0.0)
    before = among.cumsum(dim=1) - among
    enough = each([s.top_p for s in samplings]) * among.sum(dim=1, keepdim=True)
    all_of_it = each([float(s.top_p >= 1) for s in samplings]).bool()
    kept &= (before < enough) | all_of_it
    kept &= ordered >= each([s.min_p for s in samplings])
    return torch.zeros_like(weights).scatter_(1, order, torch.where(kept, ordered, 0.0))
