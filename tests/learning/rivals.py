"""PPO and DPO on one preference, over three seeds: reward, distance from the base, cost.

PPO is told the reward of its own answers; DPO which of two answers of the base has more of it.
"""

from pathlib import Path
from typing import Any

from tests.learning import vowels
from tests.learning.answers import Sampler
from tests.tiny import build_base
from trimtab.inference import Message
from trimtab.text.chat import ChatFormat
from trimtab.train.lesson import Lesson
from trimtab.train.settings import TrainSettings
from trimtab.train.start import train

SEEDS = (1, 2, 3)
PPO = {
    "num_generations": 8,
    "max_completion_length": vowels.LENGTH,
    "temperature": 1.0,
    "num_iterations": 2,
    "beta": 0.02,
}
PAIRS = 6


def run(folder: Path) -> dict[str, Any]:
    base = build_base(folder / "base")
    chat = ChatFormat.from_folder(base)
    beginning = Sampler(base, chat)
    lessons, held_out = vowels.lessons()
    pairs = [pair for lesson in lessons for pair in preferred(beginning, chat, lesson)]
    before = vowels.measured(beginning, beginning, chat, held_out)
    found: dict[str, Any] = {"before": before, "pairs": len(pairs), "ppo": [], "dpo": []}
    for seed in SEEDS:
        ways = {
            "ppo": TrainSettings(
                objective="ppo",
                method="full",
                learning_rate=2e-3,
                batch_size=32,
                epochs=2,
                seed=seed,
                extra=PPO,
            ),
            "dpo": TrainSettings(
                objective="dpo",
                method="full",
                learning_rate=1e-3,
                batch_size=8,
                seed=seed,
                extra={"beta": 0.1},
            ),
        }
        for name, settings in ways.items():
            rows = lessons if name == "ppo" else pairs
            rewards = [vowels.REWARD] if name == "ppo" else []
            result = train(base, chat, rows, settings, folder / f"{name}{seed}", rewards=rewards)
            after = vowels.measured(Sampler(result.files.model, chat), beginning, chat, held_out)
            cost = {"seed": seed, "steps": result.steps, "training_s": round(result.seconds, 1)}
            found[name].append(cost | after)
    found["learnt"] = all(
        after["interval"][0] > before["interval"][1] for after in found["ppo"] + found["dpo"]
    )
    return found


def preferred(beginning: Sampler, chat: ChatFormat, lesson: Lesson) -> list[Lesson]:
    """Pairs of the base's own answers that are worth different amounts."""
    import torch

    torch.manual_seed(len(lesson.prompt[0].content))
    prompt = chat.prompt_tokens(lesson.prompt)
    drawn = [beginning.text(each) for each in beginning.drawn(prompt, vowels.LENGTH, 2 * PAIRS)]
    # Half a character of UTF-8 could not be said again as text.
    readable = {text.replace("\ufffd", "").strip() for text in drawn} - {""}
    ranked = sorted(sorted(readable), key=vowels.worth)
    half = len(ranked) // 2
    return [
        Lesson((*lesson.prompt, Message("assistant", better)), worse)
        for worse, better in zip(ranked[:half], ranked[-half:] if half else [], strict=True)
        if vowels.worth(better) > vowels.worth(worse)
    ]
