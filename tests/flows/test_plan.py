"""What the plan counts is what the run computes: rows that are packed, too."""

import dataclasses
from pathlib import Path

import pytest

from tests.tiny import build_base
from trimtab.flows.steps.plan import training_work
from trimtab.inference import Message
from trimtab.text.chat import ChatFormat
from trimtab.train.lesson import Lesson
from trimtab.train.preflight import Preflight, preflight
from trimtab.train.prepare import prepare
from trimtab.train.settings import TrainSettings
from trimtab.train.stream.stream import IGNORED, lay_out

SETTINGS = TrainSettings(rank=4, batch_size=2, accumulation=2, epochs=1.5, max_length=200)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_base(tmp_path_factory.mktemp("base") / "tiny")


@pytest.fixture(scope="module")
def checked(base: Path) -> Preflight:
    chat = ChatFormat.from_folder(base, system="You are the support desk. Answer in JSON.")
    lessons = [
        Lesson((Message("user", f"Ticket {n} is late."), Message("assistant", "Sorry. " * n)))
        for n in range(1, 20)
    ]
    return preflight(chat, [Lesson(chat.messages_of(each.messages)) for each in lessons], 200)


@pytest.mark.parametrize("packing", [False, True])
def test_the_widest_batch_of_the_plan_is_that_of_the_run(
    base: Path, checked: Preflight, packing: bool
) -> None:
    settings = dataclasses.replace(SETTINGS, packing=packing)
    ready, planned = prepare(base, settings, checked), training_work(checked, settings)
    assert planned.batches == len(ready.layout)
    streams = [
        lay_out(
            [row.tokens for row in batch],  # type: ignore[union-attr]
            [
                [t if m else IGNORED for t, m in zip(row.tokens, row.mask, strict=True)]
                for row in batch
            ],  # type: ignore[union-attr]
        )
        for batch in ready.batches
    ]
    widest = max(len(stream.tokens) for stream in streams)
    labels = max(len(stream.targets) for stream in streams)
    if packing:
        # What the stream leaves out: behind each last label, and more that some prompts share.
        assert widest <= planned.widest_batch <= 1.2 * widest
        assert planned.widest_labels == labels
        assert planned.widest_batch > 2 * planned.longest
    else:
        assert widest <= planned.widest_batch <= 2 * planned.longest


def test_without_a_stream_every_record_is_as_long_as_the_longest(checked: Preflight) -> None:
    planned = training_work(checked, dataclasses.replace(SETTINGS, packing=True))
    assert planned.packed is not None
    for method, virtual in (("prompt", planned.rank), ("prefix", 0), ("bottleneck", 0)):
        padded = planned.packed.records * (planned.longest + virtual)
        assert planned.by(method).widest_batch == padded > planned.widest_batch
