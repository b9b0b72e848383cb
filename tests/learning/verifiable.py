"""GRPO and RLOO raise a reward that can be verified, on prompts that were held out."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from tests.learning import vowels
from tests.learning.answers import Sampler
from tests.tiny import build_base
from trimtab.text.chat import ChatFormat
from trimtab.train.settings import TrainSettings
from trimtab.train.start import train

SEEDS = (1, 2, 3)
EXTRA = {"num_generations": 8, "max_completion_length": vowels.LENGTH, "temperature": 1.0}


def grpo(folder: Path) -> dict[str, Any]:
    return _run(folder, TrainSettings(objective="grpo", epochs=5))


def rloo(folder: Path) -> dict[str, Any]:
    """Over three seeds, and as long as PPO in `rivals`."""
    found = [
        _run(folder / str(seed), TrainSettings(objective="rloo", epochs=2, seed=seed))
        for seed in SEEDS
    ]
    return {
        "before": found[0]["before"],
        "after": [
            {"seed": seed, "steps": each["steps"]} | each["after"]
            for seed, each in zip(SEEDS, found, strict=True)
        ],
        "learnt": all(each["learnt"] for each in found),
    }


def _run(folder: Path, asked: TrainSettings) -> dict[str, Any]:
    base = build_base(folder / "base")
    chat = ChatFormat.from_folder(base)
    lessons, held_out = vowels.lessons()
    settings = replace(asked, method="full", learning_rate=3e-3, batch_size=32, extra=EXTRA)
    result = train(base, chat, lessons, settings, folder / "run", rewards=[vowels.REWARD])
    beginning, trained = Sampler(base, chat), Sampler(result.files.model, chat)
    before = vowels.measured(beginning, beginning, chat, held_out)
    after = vowels.measured(trained, beginning, chat, held_out)
    return {
        "steps": result.steps,
        "before": before,
        "after": after,
        "learnt": after["interval"][0] > before["interval"][1],
    }
