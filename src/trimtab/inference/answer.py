"""What a model answers: chunks of a stream, the whole of it, the scores of given tokens."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Literal

FinishReason = Literal["stop", "length", "cancelled"]
Vector = tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Usage:
    """Token counts; `cached` prompt tokens were not computed again."""

    prompt: int
    completion: int
    cached: int = 0


Top = tuple[tuple[int, float], ...]
"""The most likely tokens at one place, best first, each with its log-probability."""


@dataclass(frozen=True, slots=True)
class Chunk:
    """A piece of a stream. Only the last one has a `finish_reason` and a `usage`.

    `logprobs` are natural logarithms under the model's raw distribution, one a token. So are those
    in `top`: one list a token where `top_logprobs` was asked for, else nothing.
    """

    text: str
    tokens: tuple[int, ...]
    logprobs: tuple[float, ...]
    finish_reason: FinishReason | None = None
    usage: Usage | None = None
    top: tuple[Top, ...] = ()


def joined(chunks: Sequence[Chunk]) -> Chunk:
    """Chunks that follow each other, as one."""
    if len(chunks) == 1:
        return chunks[0]
    last = chunks[-1]
    return Chunk(
        "".join([chunk.text for chunk in chunks]),
        tuple(chain.from_iterable([chunk.tokens for chunk in chunks])),
        tuple(chain.from_iterable([chunk.logprobs for chunk in chunks])),
        last.finish_reason,
        last.usage,
        tuple(chain.from_iterable([chunk.top for chunk in chunks])),
    )


@dataclass(frozen=True, slots=True)
class Completion:
    """A whole stream, gathered."""

    text: str
    tokens: tuple[int, ...]
    logprobs: tuple[float, ...]
    finish_reason: FinishReason
    usage: Usage
    top: tuple[Top, ...] = ()


@dataclass(frozen=True, slots=True)
class Score:
    """Natural log-probabilities of a given completion, one a token; `cached` tokens of the prompt
    were not computed again for it.
    """

    logprobs: tuple[float, ...]
    cached: int = field(default=0, compare=False)

    @property
    def total(self) -> float:
        return sum(self.logprobs)
