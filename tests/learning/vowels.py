"""A task that anybody can check: answers of vowels, from a base that says what comes."""

import json
import statistics
from collections.abc import Sequence
from typing import Any

from tests.learning.answers import Prompt, Sampler
from tests.tiny_project import TICKETS
from trimtab.inference import Message
from trimtab.text.chat import ChatFormat
from trimtab.train.lesson import Lesson
from trimtab.train.online.rewards import Reward, Rollout

LENGTH, DRAWS = 12, 8
TRAINED, HELD_OUT = 60, 24


def worth(answer: str) -> float:
    """The share of vowels."""
    return sum(letter in "aeiouAEIOU" for letter in answer) / max(1, len(answer))


def of_rollouts(rollouts: Sequence[Rollout]) -> list[float]:
    return [worth(each.answer) for each in rollouts]


REWARD = Reward("vowels", "vowels", of_rollouts)


def lessons() -> tuple[list[Lesson], list[Lesson]]:
    """Those to learn from and those held out; the answers are not looked at."""
    rows = [json.loads(line) for line in TICKETS.read_text().splitlines()[: TRAINED + HELD_OUT]]
    made = [Lesson((Message("user", row["prompt"]), Message("assistant", "a"))) for row in rows]
    return made[:TRAINED], made[TRAINED:]


def measured(
    model: Sampler, base: Sampler, chat: ChatFormat, held_out: Sequence[Lesson]
) -> dict[str, Any]:
    """Mean reward with its interval (normal, over prompts), and nats a token from the base."""
    import torch

    torch.manual_seed(7)
    rewards, away, tokens = [], 0.0, 0
    for lesson in held_out:
        prompt = chat.prompt_tokens(lesson.prompt)
        answers: list[Prompt] = model.drawn(prompt, LENGTH, DRAWS)
        rewards.append(statistics.mean(worth(model.text(answer)) for answer in answers))
        for answer in answers:
            there, here = base.logprobs(prompt, answer), model.logprobs(prompt, answer)
            away += float((here - there).sum())
            tokens += len(answer)
    mean = statistics.mean(rewards)
    half = 1.96 * statistics.stdev(rewards) / len(rewards) ** 0.5
    return {
        "reward": round(mean, 4),
        "interval": [round(mean - half, 4), round(mean + half, 4)],
        "kl_nats_a_token": round(away / tokens, 4),
    }
