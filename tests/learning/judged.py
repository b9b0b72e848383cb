"""KTO and ORPO on the preference of `rivals`, over three seeds: reward on prompts held out.

The settings are those that DPO has there. ORPO is told which of two answers has more of the
reward, KTO of each of the two whether it was the better one.
"""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from tests.learning import vowels
from tests.learning.answers import Sampler
from tests.learning.rivals import SEEDS, preferred
from tests.tiny import build_base
from trimtab.inference import Message
from trimtab.text.chat import ChatFormat
from trimtab.train.lesson import Lesson
from trimtab.train.settings import TrainSettings
from trimtab.train.start import train


def kto(folder: Path) -> dict[str, Any]:
    return _run(folder, "kto")


def orpo(folder: Path) -> dict[str, Any]:
    return _run(folder, "orpo")


def _run(folder: Path, objective: str) -> dict[str, Any]:
    base = build_base(folder / "base")
    chat = ChatFormat.from_folder(base)
    beginning = Sampler(base, chat)
    lessons, held_out = vowels.lessons()
    told = [pair for lesson in lessons for pair in preferred(beginning, chat, lesson)]
    if objective == "kto":
        told = [each for pair in told for each in apart(pair)]
    before = vowels.measured(beginning, beginning, chat, held_out)
    after = []
    for seed in SEEDS:
        settings = TrainSettings(
            objective=objective,
            method="full",
            learning_rate=1e-3,
            batch_size=8,
            seed=seed,
            extra={"beta": 0.1},
        )
        result = train(base, chat, told, settings, folder / str(seed))
        sampler = Sampler(result.files.model, chat)
        found = vowels.measured(sampler, beginning, chat, held_out)
        after.append({"seed": seed, "steps": result.steps} | found)
    return {
        "records": len(told),
        "before": before,
        "after": after,
        "learnt": all(each["interval"][0] > before["interval"][1] for each in after),
    }


def apart(pair: Lesson) -> Iterator[Lesson]:
    """The two answers of a pair, each judged."""
    yield replace(pair, rejected="", good=True)
    worse = Message("assistant", pair.rejected)
    yield replace(pair, messages=(*pair.prompt, worse), rejected="", good=False)
