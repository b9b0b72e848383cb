import random
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.data.made import write_jsonl
from trimtab.data.clean import clean_all, clean_text
from trimtab.data.dataset import Dataset, FileSource, Recipe, build
from trimtab.data.record import Record
from trimtab.errors import DataError
from trimtab.inference import Message

EXAMPLE = Path(__file__).parents[2] / "examples" / "support-desk" / "tickets.jsonl"
RECIPE = Recipe(holdout=0.1, shadow=0.04, seed=17)


def source(path: Path) -> FileSource:
    return FileSource(path, path.name)


@pytest.fixture(scope="module")
def example() -> Dataset:
    return build([source(EXAMPLE)], RECIPE)


def test_the_example_is_large_enough_and_loses_what_was_sent_twice(example: Dataset) -> None:
    """R02, R04: at least 600 records, 60 of them held out, every drop with its reason."""
    counts = example.counts
    assert counts["train"] + counts["holdout"] + counts["shadow"] >= 600
    assert counts["holdout"] >= 60
    assert (counts["exact duplicate"], counts["near duplicate"]) == (4, 4)
    assert counts["read"] == len(EXAMPLE.read_text().splitlines())
    assert all(drop.reason and drop.detail and drop.line for drop in example.dropped)


def test_the_hash_does_not_depend_on_lines_or_files(example: Dataset, tmp_path: Path) -> None:
    lines = EXAMPLE.read_text().splitlines()
    random.Random(1).shuffle(lines)
    (tmp_path / "a.jsonl").write_text("\n".join(lines[:300]))
    (tmp_path / "b.jsonl").write_text("\n".join(lines[300:]))
    again = build([source(tmp_path / "b.jsonl"), source(tmp_path / "a.jsonl")], RECIPE)
    assert again.hash == example.hash


def test_another_seed_or_record_is_another_dataset(example: Dataset, tmp_path: Path) -> None:
    assert build([source(EXAMPLE)], Recipe(0.1, 0.04, 18)).hash != example.hash
    more = tmp_path / "more.jsonl"
    more.write_text(EXAMPLE.read_text() + '{"prompt": "One more thing.", "completion": "Yes."}\n')
    assert build([source(more)], RECIPE).hash != example.hash


def test_a_manifest_gives_the_same_dataset_back(example: Dataset) -> None:
    assert Dataset.from_manifest(example.to_manifest()) == example


def test_too_few_records_for_a_holdout_are_refused(tmp_path: Path) -> None:
    file = write_jsonl(tmp_path / "a.jsonl", [{"prompt": "q", "completion": "a"}])
    with pytest.raises(DataError, match="is empty: 1 different records are too few"):
        build([source(file)], RECIPE)


def test_cleaning_keeps_the_words() -> None:
    assert clean_text(" e\u0301\r\nx\x00\x07 y\t \r") == "é\nx y"
    assert clean_text("e\x07\u0301") == "é"


@given(st.text(st.sampled_from("e\u0301\x07\r\n \x00ﬁ한")))
def test_what_is_clean_stays_as_it_is(text: str) -> None:
    assert clean_text(clean_text(text)) == clean_text(text)


def test_questions_that_are_all_empty_ask_nothing() -> None:
    turns = [("user", "\x07"), ("assistant", "What?"), ("user", " "), ("assistant", "Yes.")]
    record = Record(tuple(Message(role, said) for role, said in turns), "made.jsonl", 1)
    kept, dropped = clean_all([record])
    assert kept == []
    assert dropped[0].detail == "no question is left after cleaning"
