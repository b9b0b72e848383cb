"""SFT learns a format: on prompts that were held out, answers are objects of the right keys."""

import json
from pathlib import Path
from typing import Any

from tests.learning.answers import Sampler
from tests.tiny import build_base
from tests.tiny_project import TICKETS
from trimtab.inference import Message
from trimtab.stats.binomial import clopper_pearson
from trimtab.text.chat import ChatFormat
from trimtab.train.lesson import Lesson
from trimtab.train.settings import TrainSettings
from trimtab.train.start import train

KEYS = ("intent", "urgency")
TRAINED, HELD_OUT = 480, 60


def run(folder: Path) -> dict[str, Any]:
    base = build_base(folder / "base")
    chat = ChatFormat.from_folder(base)
    rows = [json.loads(line) for line in TICKETS.read_text().splitlines()]
    lessons = [
        Lesson((Message("user", row["prompt"]), Message("assistant", answer(row))))
        for row in rows[: TRAINED + HELD_OUT]
    ]
    settings = TrainSettings(method="full", learning_rate=3e-3, batch_size=8, epochs=6)
    result = train(base, chat, lessons[:TRAINED], settings, folder / "run")
    prompts = [chat.prompt_tokens(lesson.prompt) for lesson in lessons[TRAINED:]]
    before, after = (
        sum(map(is_right, Sampler(place, chat).greedy(prompts, 24)))
        for place in (base, result.files.model)
    )
    interval = clopper_pearson(after, HELD_OUT)
    return {
        "held_out": HELD_OUT,
        "right_before": before,
        "right_after": after,
        "interval": [interval.low, interval.high],
        "learnt": before == 0 and interval.low > 0.8,
    }


def answer(row: dict[str, Any]) -> str:
    kept = {key: row["completion"][key] for key in KEYS}
    return json.dumps(kept, separators=(",", ":"))


def is_right(text: str) -> bool:
    try:
        found = json.loads(text)
    except ValueError:
        return False
    return isinstance(found, dict) and tuple(found) == KEYS
