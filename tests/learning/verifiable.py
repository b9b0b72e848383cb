"""GRPO raises a reward that can be verified, on prompts that were held out."""

from pathlib import Path
from typing import Any

from tests.learning import vowels
from tests.learning.answers import Sampler
from tests.tiny import build_base
from trimtab.text.chat import ChatFormat
from trimtab.train.settings import TrainSettings
from trimtab.train.start import train

EXTRA = {"num_generations": 8, "max_completion_length": vowels.LENGTH, "temperature": 1.0}


def run(folder: Path) -> dict[str, Any]:
    base = build_base(folder / "base")
    chat = ChatFormat.from_folder(base)
    lessons, held_out = vowels.lessons()
    settings = TrainSettings(
        objective="grpo", method="full", learning_rate=3e-3, batch_size=32, epochs=5, extra=EXTRA
    )
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
