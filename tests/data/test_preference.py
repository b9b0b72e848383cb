"""Rows with two answers, or with a judged one: each layout, and what is no preference."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.data.made import write_jsonl
from trimtab.data.dataset import Dataset, FileSource, Recipe, build
from trimtab.data.layout import record_of
from trimtab.data.sources import Row
from trimtab.errors import DataError

TURNS = [{"role": "user", "content": "q"}]
GOOD, BAD = ({"role": "assistant", "content": word} for word in ("good", "bad"))
HH = "\n\nHuman: q\n\nAssistant: "


@pytest.mark.parametrize(
    "fields",
    [
        {"prompt": "q", "chosen": "good", "rejected": "bad"},
        {"prompt": TURNS, "chosen": [GOOD], "rejected": [BAD]},
        {"chosen": [*TURNS, GOOD], "rejected": [*TURNS, BAD]},
        {"chosen": HH + "good", "rejected": HH + "bad"},
        {"instruction": "q", "input": "", "chosen": "good", "rejected": "bad"},
        {
            "conversations": [{"from": "human", "value": "q"}],
            "chosen": {"from": "gpt", "value": "good"},
            "rejected": {"from": "gpt", "value": "bad"},
        },
    ],
)
@pytest.mark.parametrize("needs", ["preference", "judgement", "prompt"])
def test_known_layouts(fields: dict[str, Any], needs: Any) -> None:
    record = record_of(Row(fields, "s", 7), needs)
    assert [(m.role, m.content) for m in record.messages] == [("user", "q"), ("assistant", "good")]
    assert record.rejected == "bad"


def test_a_transcript_keeps_every_turn() -> None:
    said = "\n\nHuman: a\n\nAssistant: b\n\nHuman: c\n\nAssistant: "
    record = record_of(Row({"chosen": said + "d", "rejected": said + "e"}, "s", 1), "preference")
    assert [m.content for m in record.messages] == ["a", "b", "c", "d"]
    assert record.asked == "a\nc"


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"prompt": "q", "completion": "a"}, "no preference"),
        ({"prompt": "q", "chosen": "a", "rejected": ""}, "no answer: field 'rejected'"),
        ({"prompt": "q", "chosen": [], "rejected": "b"}, "no answer: field 'chosen'"),
        ({"prompt": TURNS, "chosen": [*TURNS, GOOD], "rejected": [BAD]}, "is not one turn"),
        ({"chosen": HH + "good", "rejected": HH}, "'rejected' does not end in the assistant"),
        ({"chosen": HH + "a", "rejected": "\n\nHuman: x\n\nAssistant: b"}, "part before"),
        ({"chosen": "a", "rejected": "b"}, "no prompt beside it"),
    ],
)
def test_what_is_no_preference_names_its_place(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message) as caught:
        record_of(Row(fields, "s", 7), "preference")
    assert caught.value.message.startswith("s:7: ")


@pytest.mark.parametrize(
    ("field", "value", "good"),
    [("label", True, True), ("label", "False", False), ("kto_tag", False, False)],
)
def test_a_judgement_is_kept(field: str, value: object, good: bool) -> None:
    row = Row({"prompt": "q", "completion": "a", field: value}, "s", 7)
    assert record_of(row, "judgement").label is good


def test_an_answer_that_nobody_judged_is_refused() -> None:
    with pytest.raises(DataError, match="s:7: no judgement"):
        record_of(Row({"prompt": "q", "completion": "a"}, "s", 7), "judgement")


def test_pairs_and_judgements_come_through_the_whole_room(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [
        {
            "prompt": f"question {n} of {'x' * (n % 7)}{n * n}",
            "chosen": "yes",
            "rejected": f"no {n}",
        }
        for n in range(60)
    ]
    rows.append({"prompt": "and this?", "chosen": "same", "rejected": " same"})
    rows.append({"prompt": "and that?", "chosen": "this", "rejected": "\x07"})
    file = write_jsonl(tmp_path / "pairs.jsonl", rows)
    recipe = Recipe(holdout=0.2, shadow=0.1, seed=3, needs="preference")
    dataset = build([FileSource(file, "pairs.jsonl")], recipe)
    assert [d.detail for d in dataset.dropped if d.reason == "no preference"] == [
        "chosen and rejected are the same"
    ]
    assert [d.detail for d in dataset.dropped if d.reason == "empty"] == [
        "no rejected answer is left after cleaning"
    ]
    assert all(record.rejected for record in (*dataset.train, *dataset.holdout))
    assert Dataset.from_manifest(dataset.to_manifest()) == dataset


def test_the_rejected_answer_is_part_of_what_a_record_is() -> None:
    fields = {"prompt": "q", "chosen": "a", "rejected": "b"}
    one, other = (
        record_of(Row(fields | {"rejected": word}, "s", 1), "preference") for word in "bc"
    )
    assert one.hash != other.hash


def test_a_question_may_have_a_good_answer_and_a_bad_one(tmp_path: Path) -> None:
    rows = [
        {"prompt": f"what about case {n * 37}?", "completion": f"{word} {n}", "label": word == "do"}
        for n in range(40)
        for word in ("do", "do not")
    ]
    file = tmp_path / "judged.json"
    file.write_text(json.dumps(rows))
    recipe = Recipe(holdout=0.2, shadow=0.1, seed=3, needs="judgement")
    dataset = build([FileSource(file, "judged.json")], recipe)
    by_prompt: dict[str, set[bool | None]] = {}
    for record in dataset.train:
        by_prompt.setdefault(record.prompt_hash, set()).add(record.label)
    assert {True, False} in by_prompt.values()


def test_a_holdout_without_a_good_answer_is_refused_at_once(tmp_path: Path) -> None:
    rows = [
        {"prompt": f"what about case {n * 37}?", "completion": f"do not {n}", "label": False}
        for n in range(40)
    ]
    file = write_jsonl(tmp_path / "judged.jsonl", rows)
    recipe = Recipe(holdout=0.2, shadow=0.1, seed=3, needs="judgement")
    with pytest.raises(DataError, match="held-out answers is labelled good"):
        build([FileSource(file, "judged.jsonl")], recipe)
