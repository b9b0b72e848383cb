"""What an answer of the model's own is worth: a function of the prompt, the answer and the gold.

Training asks for rewards and knows not where they come from: a rule, a reward model, a judge.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from trimtab.errors import DataError
from trimtab.inference import Message
from trimtab.train.lesson import Lesson


@dataclass(frozen=True, slots=True)
class Rollout:
    """An answer that the model gave in training. `gold` is the record's own answer, `record` its
    place among the training records.
    """

    prompt: tuple[Message, ...]
    answer: str
    gold: str
    record: int


@dataclass(frozen=True, slots=True)
class Reward:
    """`score` gives one finite number a rollout; `identity` tells one reward from another."""

    name: str
    identity: str
    score: Callable[[Sequence[Rollout]], Sequence[float]]


@dataclass(frozen=True, slots=True)
class Scorer:
    """A reward over training records: `score` takes the places of some, and an answer to each."""

    name: str
    identity: str
    score: Callable[[Sequence[int], Sequence[str]], list[float]]


def over(reward: Reward, lessons: Sequence[Lesson]) -> Scorer:
    """The reward, of answers to these lessons."""

    def score(records: Sequence[int], answers: Sequence[str]) -> list[float]:
        pairs = zip(records, answers, strict=True)
        found = [Rollout(lessons[at].prompt, text, lessons[at].answer, at) for at, text in pairs]
        return scores(reward, found)

    return Scorer(reward.name, reward.identity, score)


def scores(reward: Reward, rollouts: Sequence[Rollout]) -> list[float]:
    """The rewards of a batch. Raises DataError where one is missing or no number."""
    found = [float(value) for value in reward.score(rollouts)]
    if len(found) != len(rollouts) or not all(map(math.isfinite, found)):
        raise DataError(
            f"train.rewards: '{reward.name}' gave {found} for {len(rollouts)} answers",
            hint="a reward gives one finite number an answer",
        )
    return found
