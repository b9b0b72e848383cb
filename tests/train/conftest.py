"""A tiny base, its chat format, two dozen dialogues that begin alike, and a reward."""

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.tiny import build_base
from trimtab.inference import Message
from trimtab.text.chat import ChatFormat
from trimtab.train.lesson import Lesson
from trimtab.train.online.rewards import Reward, Rollout
from trimtab.train.settings import TrainSettings

SYSTEM = "You are the support desk. Answer with one JSON object."
PROBLEMS = ("the lock", "my chime", "our boiler", "a bill", "the app", "this plan")
MOODS = ("is late", "crashes when I open the settings", "was wrong, this is urgent", "works")

Records = Sequence[Lesson]
DIALOGUES: Records = [
    Lesson(
        (
            Message("user", f"Hello, {problem} {mood}."),
            Message("assistant", f'{{"product": "{problem}", "urgency": "{len(mood)}"}}'),
        ),
        rejected=f"I do not know what to do with {problem}.",
    )
    for problem in PROBLEMS
    for mood in MOODS
]


def small_settings() -> TrainSettings:
    """Six steps of four records, saved every second step."""
    return TrainSettings(rank=4, alpha=8, batch_size=4, learning_rate=0.01, extra={"save_steps": 2})


def overheard(file: Path) -> Reward:
    """A reward that a random model can learn: answers of few characters. It notes whom it rewards
    in `file`, a line each.
    """

    def score(rollouts: Sequence[Rollout]) -> list[float]:
        with file.open("a", encoding="utf-8") as notes:
            notes.writelines(f"{json.dumps([each.record, each.answer])}\n" for each in rollouts)
        return [-len(each.answer) / 10 for each in rollouts]

    return Reward("short", "short", score)


def notes_of(run: Path) -> Path:
    """Where the answers of a run are noted."""
    return run.with_name(f"{run.name}.answers")


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    import torch

    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_base(tmp_path_factory.mktemp("base") / "tiny")


@pytest.fixture(scope="session")
def chat(base: Path) -> ChatFormat:
    return ChatFormat.from_folder(base, system=SYSTEM)


@pytest.fixture(scope="session")
def records() -> Records:
    return DIALOGUES


@pytest.fixture
def settings() -> TrainSettings:
    return small_settings()
