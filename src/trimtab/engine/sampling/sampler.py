"""Draws the next token of every row from its logits.

A seeded row's randomness depends on the seed and the position alone: never on the batch, on other
rows or on what was drawn before. So the same request gives the same answer in any company. Rows
that ask for nothing but the best token share one pass; every other row is worked on by itself.
"""

import hashlib
import math
import secrets
from collections import Counter
from collections.abc import Callable, Sequence

import torch

from trimtab.engine.faults import unexpected
from trimtab.engine.sampling.drawing import draw_all
from trimtab.engine.sampling.drawn import Drawn
from trimtab.engine.sampling.grammar import Grammar
from trimtab.errors import EngineError, RequestRefused
from trimtab.inference import GenerateRequest, Sampling, Top

# So many of the best tokens nearly always hold the mass that `top_p` asks for; sorting these alone
# costs a tenth of sorting a vocabulary.
NUCLEUS = 256


class Sampler:
    """How one answer's tokens are drawn, and what that depends on: the prompt, and what came."""

    def __init__(self, request: GenerateRequest, grammar: Grammar | None = None) -> None:
        sampling = request.sampling
        self.sampling = sampling
        self._grammar = grammar
        self.position = len(request.prompt)
        """The place in the sequence that the next token will take."""
        # Without a seed an answer takes a stream that nobody knows.
        self._seed = secrets.randbits(63) if sampling.seed is None else sampling.seed
        self._repels = bool(sampling.presence_penalty or sampling.frequency_penalty)
        self._repeats = sampling.repetition_penalty != 1
        self._seen = set(request.prompt) if self._repeats else set()
        self._counts: Counter[int] = Counter()
        self.greedy = sampling.temperature == 0
        self.plain = self.greedy and not (self._repels or self._repeats or grammar)
        """Whether the likeliest token is taken as it is."""

    @property
    def complete(self) -> bool:
        """Whether the grammar lets nothing follow."""
        return self._grammar is not None and self._grammar.complete

    def rest(self) -> None:
        """The answer is whole; what is still drawn for its row means nothing."""
        self.plain = True

    def took(self, token: int) -> None:
        """The token that became part of the answer."""
        self.position += 1
        if self._repels:
            self._counts[token] += 1
        if self._repeats:
            self._seen.add(token)
        if self._grammar is not None:
            self._grammar.took(token)

    def pick(self, logits: torch.Tensor) -> int:
        """A token by its row (vocabulary,), which is finite and stays as it is. Raises as `scores`
        does.
        """
        scores = self.scores(logits)
        if self.greedy:
            return int(scores.argmax())
        return _draw(scores, self.sampling, self.point)

    @property
    def point(self) -> float:
        """Where the next token's distribution is cut."""
        return uniform(self._seed, self.position)

    def scores(self, logits: torch.Tensor) -> torch.Tensor:
        """What the next token is drawn by. Raises RequestRefused where the grammar cannot go on, or
        a penalty leaves no number.
        """
        scores = self._penalised(logits)
        if scores is not logits and not math.isfinite(float(scores.max())):
            raise RequestRefused(
                "the penalties make the logits infinite", hint="choose them nearer to what they are"
            )
        if self._grammar is not None:
            allowed = self._grammar.allowed(len(scores)).to(scores.device)
            scores = scores.masked_fill(~allowed, -math.inf)
        return scores

    def _penalised(self, logits: torch.Tensor) -> torch.Tensor:
        """Tokens of prompt and answer divided by the repetition penalty (Keskar et al., 2019);
        those of the answer lowered as OpenAI's API describes.
        """
        if not (self._repels or self._repeats):
            return logits
        scores = logits.clone()
        if self._repeats:
            seen = torch.tensor(sorted(self._seen), dtype=torch.long, device=scores.device)
            penalty, old = self.sampling.repetition_penalty, scores[seen]
            scores[seen] = torch.where(old > 0, old / penalty, old * penalty)
        if self._counts:
            tokens = torch.tensor(list(self._counts), device=scores.device)
            times = torch.tensor(
                list(self._counts.values()), dtype=scores.dtype, device=scores.device
            )
            lowered = self.sampling.frequency_penalty * times + self.sampling.presence_penalty
            scores[tokens] -= lowered
        return scores


Best = Callable[[torch.Tensor], tuple[torch.Tensor, torch.Tensor]]


def best(logits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The first likeliest token of each row of `logits` (rows, vocabulary), in float32, and the
    logarithm of the sum of its powers, which is not finite where a logit is not.
    """
    return logits.argmax(dim=-1), logits.logsumexp(dim=-1)


def choose(
    logits: torch.Tensor, samplers: Sequence[Sampler], best: Best = best
) -> list[Drawn | EngineError]:
    """The next token of each row of `logits` (rows, vocabulary), or why there is none.

    What goes wrong with one row is that row's alone.
    """
    logits = logits.float()
    likeliest, normaliser = best(logits)
    chosen = logits.gather(1, likeliest.unsqueeze(1)).squeeze(1)
    # All that is asked of the device of rows that want nothing else, in one question.
    told = torch.stack([part.double() for part in (likeliest, normaliser, chosen - normaliser)])
    best_tokens, normalisers, logprobs = told.tolist()
    tokens = [int(token) for token in best_tokens]
    refused: dict[int, EngineError] = {}
    picked: list[int] = []
    together: dict[int, torch.Tensor] = {}
    for row, sampler in enumerate(samplers):
        if not math.isfinite(normalisers[row]):
            refused[row] = not_finite()
        elif not sampler.plain:
            try:
                if logits.device.type == "cpu" or sampler.greedy:
                    tokens[row] = sampler.pick(logits[row])
                else:
                    together[row] = sampler.scores(logits[row])
                picked.append(row)
            except RequestRefused as error:
                refused[row] = error
            except Exception as error:
                refused[row] = unexpected(error)
    if together:
        asked = [samplers[row] for row in together]
        scores = torch.stack([*together.values()])
        drawn_now = draw_all(scores, [s.sampling for s in asked], [s.point for s in asked])
        tokens_of = dict(zip(together, drawn_now, strict=True))
        tokens = [tokens_of.get(row, token) for row, token in enumerate(tokens)]
    if picked:
        chosen = logits[picked, [tokens[row] for row in picked]] - normaliser[picked]
        for row, logprob in zip(picked, chosen.tolist(), strict=True):
            logprobs[row] = logprob
    drawn: list[Drawn | EngineError] = []
    for row, sampler in enumerate(samplers):
        if row in refused:
            drawn.append(refused[row])
            continue
        top: Top = ()
        if sampler.sampling.top_logprobs:
            top = _likeliest(logits[row] - normaliser[row], sampler.sampling.top_logprobs)
        drawn.append(Drawn(tokens[row], logprobs[row], top))
    return drawn


def not_finite() -> EngineError:
    """For the request whose logits are NaN or infinity."""
    return EngineError(
        "the model's logits are not finite", hint="its numbers overflow; use a wider dtype"
    )


def uniform(seed: int, position: int) -> float:
    """A number in [0, 1) that is a function of its arguments: 53 bits of a keyed BLAKE2b."""
    digest = hashlib.blake2b(f"{seed}:{position}".encode(), digest_size=8).digest()
    return (int.from_bytes(digest, "big") >> 11) * 2.0**-53


def _likeliest(logprobs: torch.Tensor, count: int) -> Top:
    best = logprobs.topk(min(count, len(logprobs)))
    return tuple(zip(best.indices.tolist(), best.values.tolist(), strict=True))


def _draw(scores: torch.Tensor, sampling: Sampling, point: float) -> int:
    """Invert the cumulative distribution, in the order of the vocabulary, at `point`."""
    # The maximum goes first: else a tiny temperature makes every weight infinite.
    weights = ((scores.double() - scores.double().amax()) / sampling.temperature).exp()
    tokens = _kept(weights, sampling)
    if tokens is not None:
        weights = weights[tokens]
    cumulative = weights.cumsum(dim=-1)
    place = int(torch.searchsorted(cumulative, cumulative[-1] * point, right=True))
    place = min(place, int(weights.nonzero()[-1]))
    return place if tokens is None else int(tokens[place])


def _kept(weights: torch.Tensor, sampling: Sampling) -> torch.Tensor | None:
    """The tokens that may come, in the order of the vocabulary; None where all may.

    The `top_k` best; of them the fewest that hold `top_p` of the mass; of them those that weigh at
    least `min_p` of the best.
    """
    kept: torch.Tensor | None = None
    if 0 < sampling.top_k < len(weights):
        kept = (weights >= weights.topk(sampling.top_k).values[-1]).nonzero().squeeze(1)
    if sampling.top_p < 1:
        kept = _nucleus(weights, kept, sampling.top_p)
    if sampling.min_p > 0:
        # The best weighs 1.
        heavy = weights >= sampling.min_p
        kept = heavy.nonzero().squeeze(1) if kept is None else kept[heavy[kept]]
    return kept


def _nucleus(weights: torch.Tensor, among: torch.Tensor | None, top_p: float) -> torch.Tensor:
    """The fewest tokens that hold `top_p` of the mass, the one that crosses it included."""
    if among is not None:
        weights = weights[among]
    enough = top_p * weights.sum()
    size = min(NUCLEUS, len(weights))
    while True:
        # Of equal weights the first goes first, as in a sort of them all.
        least = weights.topk(size).values[-1]
        places = (weights >= least).nonzero().squeeze(1)
        ordered, order = weights[places].sort(descending=True, stable=True)
        before = ordered.cumsum(dim=-1) - ordered
        if size == len(weights) or float(before[-1]) >= float(enough):
            kept = places[order[before < enough]].sort().values
            return kept if among is None else among[kept]
        size = min(16 * size, len(weights))
