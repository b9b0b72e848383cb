"""Base and records of the training benchmark: one set of tokens, one mask for every system."""

import gzip
import json
import random
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from benchmarks.serve.material import base_folder, data_folder
from trimtab.data.layout import record_of
from trimtab.data.sources import Row as SourceRow
from trimtab.errors import DataError
from trimtab.flows.lessons import lessons_of
from trimtab.text.chat import ChatFormat
from trimtab.train.lesson import Lesson
from trimtab.train.objectives import objective_of
from trimtab.train.preflight import preflight
from trimtab.train.rows import Row
from trimtab.train.settings import TrainSettings

# The quickstart's own, but for the accumulation, which is 1 in place of 8: a step of sixteen rows
# takes minutes on two cores. Two rows of 1,024 tokens make up a step, of QLoRA two of 256.
QUICKSTART = TrainSettings(
    rank=16,
    alpha=32,
    dropout=0.05,
    targets=("q_proj", "k_proj", "v_proj", "o_proj"),
    batch_size=2,
    packing=True,
    learning_rate=2e-4,
    max_length=1024,
)
PAIRS = TrainSettings(objective="dpo", batch_size=2, max_length=256)
CASES = {
    "lora-sft": QUICKSTART,
    "dpo": PAIRS,
    "qlora-sft": replace(QUICKSTART, method="qlora", targets="all-linear", max_length=256),
}
STEPS = {"lora-sft": 1, "dpo": 1, "qlora-sft": 1}
HELD_OUT = 4
# How full best fit packs rows; beyond it a step would need a third row.
FULL = 0.95


@dataclass(frozen=True)
class Material:
    """`taught` fills the steps of a case; `held_out` is never trained on."""

    taught: list[Lesson]
    held_out: list[Lesson]
    chat: ChatFormat
    settings: TrainSettings
    steps: int

    def rows(self, lessons: list[Lesson]) -> tuple[Row, ...]:
        objective = objective_of(self.settings.objective)
        return preflight(self.chat, lessons, self.settings.max_length, objective).examples


def material(case: str) -> Material:
    settings, chat = CASES[case], ChatFormat.from_folder(base_folder())
    found = list(_lessons(case))
    random.Random(17).shuffle(found)
    # What the prompt and the answer of a record hold, in letters: three a token is few.
    short = [each for each in found if _letters(each) < 3 * settings.max_length]
    whole = Material([], short[:HELD_OUT], chat, settings, STEPS[case])
    taught: list[Lesson] = []
    batches = STEPS[case] * settings.batch_size
    room = FULL * batches * settings.max_length
    for lesson in short[HELD_OUT:]:
        room -= whole.rows([lesson])[0].size if settings.packing else 0
        if room < 0 or (not settings.packing and len(taught) == batches):
            break
        taught.append(lesson)
    return Material(taught, whole.held_out, chat, settings, STEPS[case])


def _letters(lesson: Lesson) -> int:
    return sum(len(message.content) for message in lesson.messages) + len(lesson.rejected)


def _lessons(case: str) -> Iterator[Lesson]:
    folder = data_folder()
    if folder is None:
        raise SystemExit("no public data: put shared/data beside the repository, or TRIMTAB_DATA")
    if case == "dpo":
        with gzip.open(folder / "hh_rlhf" / "harmless-base_test.jsonl.gz", "rt") as lines:
            yield from _read(map(json.loads, lines), "preference")
        return
    file = folder / "self_instruct" / "user_oriented_instructions.jsonl"
    lines_of = map(json.loads, file.read_text().splitlines())
    yield from _read((_alpaca(line) for line in lines_of), "answer")


def _alpaca(line: dict[str, Any]) -> dict[str, Any]:
    return {"instruction": line["instruction"], **line["instances"][0]}


def _read(rows: Iterable[dict[str, Any]], needs: Any) -> Iterator[Lesson]:
    for number, fields in enumerate(rows, start=1):
        try:
            yield from lessons_of([record_of(SourceRow(fields, "public", number), needs)])
        except DataError:
            # Pairs that part before their last turn, and answers without words.
            continue
