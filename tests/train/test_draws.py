"""What an answer draws is what its distribution says, and nobody else's business."""

import math
import random

import pytest
import torch

from trimtab.train.online.draws import Drawn, draws


def drawn(scores: torch.Tensor, rows: list[random.Random]) -> list[int]:
    """The token that is left of each row's scores."""
    left = Drawn(rows)(torch.empty(len(rows), 0), scores)
    assert (left > -math.inf).sum(dim=1).tolist() == [1] * len(rows)
    found: list[int] = left.argmax(dim=1).tolist()
    return found


def test_tokens_are_drawn_as_often_as_they_are_likely() -> None:
    count = 20_000
    scores = torch.tensor([0.0, 1.0, -math.inf, 2.0, -3.0])
    found = drawn(scores.expand(count, 5), draws(17, 0, range(count)))
    for token, share in enumerate(scores.double().softmax(dim=0).tolist()):
        # Five standard deviations of a binomial.
        spread = 5 * math.sqrt(share * (1 - share) / count)
        assert found.count(token) / count == pytest.approx(share, abs=spread)
    assert found.count(2) == 0


def test_who_else_draws_changes_nothing() -> None:
    scores = torch.randn(6, 50, generator=torch.Generator().manual_seed(3))
    whole = [drawn(scores, rows) for rows in [draws(17, 4, range(6))] for _ in range(3)]
    half = [drawn(scores[1::2], rows) for rows in [draws(17, 4, (1, 3, 5))] for _ in range(3)]
    assert half == [each[1::2] for each in whole]
    assert whole[0] != drawn(scores, draws(17, 5, range(6)))
    assert whole[0] != drawn(scores, draws(18, 4, range(6)))
