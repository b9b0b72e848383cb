"""A lesson as tokens: what a step of training computes, and what a golden probe repeats.

Knows nothing of models or torch.
"""

from dataclasses import dataclass, replace
from itertools import groupby
from operator import itemgetter

Tokens = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Example:
    """A whole dialogue; the loss is on the tokens whose `mask` is true.

    `record` is its place in the list that was handed in.
    """

    record: int
    tokens: Tokens
    mask: tuple[bool, ...]

    @property
    def answer_at(self) -> int:
        """Index of the last run of tokens that carry loss: the length of the last prompt."""
        at = len(self.mask) - 1 - self.mask[::-1].index(True)
        while at and self.mask[at - 1]:
            at -= 1
        return at

    @property
    def prompt(self) -> Tokens:
        return self.tokens[: self.answer_at]

    @property
    def completion(self) -> Tokens:
        """The last answer, its end of turn included."""
        pairs = zip(self.tokens[self.answer_at :], self.mask[self.answer_at :], strict=True)
        return tuple(token for token, taught in pairs if taught)

    @property
    def answers(self) -> list[Tokens]:
        """Each run of tokens that carry loss."""
        marked = groupby(zip(self.tokens, self.mask, strict=True), key=itemgetter(1))
        return [tuple(token for token, _ in run) for taught, run in marked if taught]

    @property
    def supervised(self) -> int:
        return sum(self.mask)

    @property
    def size(self) -> int:
        """Tokens that one pass computes."""
        return len(self.tokens)

    @property
    def longest(self) -> int:
        return len(self.tokens)

    def identity(self) -> list[object]:
        taught = [place for place, carries in enumerate(self.mask) if carries]
        return [list(self.tokens), taught]


@dataclass(frozen=True, slots=True)
class Answers:
    """A prompt with what may stand behind it: one answer, or the chosen and the rejected one.

    `good` says whether a single answer is to become likelier. `record` is the lesson's place in the
    list that was handed in.
    """

    record: int
    prompt: Tokens
    completions: tuple[Tokens, ...]
    good: bool = True

    @property
    def completion(self) -> Tokens:
        return self.completions[0]

    @property
    def supervised(self) -> int:
        return sum(map(len, self.completions))

    @property
    def size(self) -> int:
        return len(self.prompt) * len(self.completions) + self.supervised

    @property
    def longest(self) -> int:
        return len(self.prompt) + max(map(len, self.completions))

    def identity(self) -> list[object]:
        return [list(self.prompt), [list(answer) for answer in self.completions], self.good]


Row = Example | Answers


def idle(row: Row) -> Row:
    """The same row with nothing in it that counts: what a rank without one computes."""
    return replace(row, mask=(False,) * len(row.mask)) if isinstance(row, Example) else row
