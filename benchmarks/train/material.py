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
from trimtab.train.order import packed_rows
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
# Records of which those are taken that fit.
TRIED = 48


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
    short = short[: HELD_OUT + TRIED]
    whole = Material([], [], chat, settings, STEPS[case])
    fitting = [(short[row.record], row.size) for row in whole.rows(short)]
    taught: list[Lesson] = []
    lengths: list[int] = []
    batches = STEPS[case] * settings.batch_size
    for lesson, size in fitting[HELD_OUT:]:
        more = [*lengths, size]
        # A row more than fill the steps would be a step more.
        if (_packed(more, settings) if settings.packing else len(more)) <= batches:
            taught.append(lesson)
            lengths = more
    held_out = [lesson for lesson, _ in fitting[:HELD_OUT]]
    return Material(taught, held_out, chat, settings, STEPS[case])


def _packed(lengths: list[int], settings: TrainSettings) -> int:
    """Into how many rows they go."""
    return len(
        packed_rows(
            lengths, examples=len(lengths), max_length=settings.max_length, seed=settings.seed
        )
    )


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
