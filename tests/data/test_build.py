"""What holds for every dataset that `build` makes, whatever it is made from."""

import json
import random
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.data.made import write_jsonl
from trimtab.data.dataset import Dataset, FileSource, Recipe, build
from trimtab.data.deduplicate import SIMILAR, jaccard, shingles
from trimtab.data.leakage import grams
from trimtab.data.split import SPLITS
from trimtab.errors import DataError

Row = dict[str, Any]

RECIPE = Recipe(holdout=0.25, shadow=0.2, seed=1)
WORDS = ("heating", "keypad", "bolt", "chime", "camera", "invoice", "refund", "night", "winter")


def made(number: int) -> Row:
    """A row like no other: its words are drawn for its number alone."""
    chance = random.Random(number)
    asked = " ".join("".join(chance.choices("aeioubdfgklmnprst", k=6)) for _ in range(9))
    return {"prompt": asked, "completion": {"intent": "fault", "reply": f"Answer {number}."}}


STOCK = [made(number) for number in range(60)]
# From so few words that duplicates, near duplicates and shared 8-grams all occur.
ROW = st.builds(
    lambda words, reply: {"prompt": " ".join(words), "completion": reply},
    st.lists(st.sampled_from(WORDS), min_size=1, max_size=14),
    st.sampled_from(["Yes.", "No.", "\x07", "We send it to you again by the end of this week."]),
)
ROWS = st.lists(ROW, max_size=20)
SLOW = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("sources")


def built(folder: Path, *files: list[Row]) -> Dataset:
    names = [f"{number}.jsonl" for number in range(len(files))]
    for name, rows in zip(names, files, strict=True):
        write_jsonl(folder / name, rows)
    return build([FileSource(folder / name, name) for name in names], RECIPE)


@SLOW
@given(rows=ROWS, chance=st.randoms(use_true_random=False), cut=st.integers(1, 59))
def test_neither_lines_nor_files_change_the_hash(
    folder: Path, rows: list[Row], chance: random.Random, cut: int
) -> None:
    whole = [*STOCK, *rows]
    first = built(folder, whole)
    chance.shuffle(whole)
    again = built(folder, whole[cut:], whole[:cut])
    assert again.hash == first.hash
    assert [again.of(name) == () for name in SPLITS] == [False] * 3


@SLOW
@given(rows=ROWS, more=ROWS)
def test_added_records_move_none_to_another_split(
    folder: Path, rows: list[Row], more: list[Row]
) -> None:
    before = built(folder, [*STOCK, *rows])
    after = built(folder, [*STOCK, *rows, *more])
    places = {record.hash: name for name in SPLITS for record in before.of(name)}
    for name in SPLITS:
        for record in after.of(name):
            assert places.get(record.hash, name) == name


@SLOW
@given(rows=ROWS)
def test_no_two_splits_share_eight_words_or_a_similar_question(
    folder: Path, rows: list[Row]
) -> None:
    dataset = built(folder, [*STOCK, *rows])
    for one, other in combinations(SPLITS, 2):
        taken = {gram for record in dataset.of(one) for gram in grams(record)}
        assert not any(gram in taken for record in dataset.of(other) for gram in grams(record))
    seen: list[frozenset[str]] = []
    for record in (record for name in SPLITS for record in dataset.of(name)):
        asked = shingles(record.asked)
        assert all(jaccard(asked, earlier) < SIMILAR for earlier in seen)
        seen.append(asked)


@SLOW
@given(rows=ROWS)
def test_every_row_is_kept_or_dropped_with_a_reason(folder: Path, rows: list[Row]) -> None:
    whole = [*STOCK, *rows]
    dataset = built(folder, whole)
    kept = [record.line for name in SPLITS for record in dataset.of(name)]
    dropped = [drop.line for drop in dataset.dropped]
    assert sorted(kept + dropped) == list(range(1, len(whole) + 1))
    assert all(drop.reason and drop.detail for drop in dataset.dropped)
    assert dataset.counts["read"] == len(whole)
    assert Dataset.from_manifest(dataset.to_manifest()) == dataset


def test_planted_near_duplicates_are_found_and_name_their_twin(folder: Path) -> None:
    rows = [json.loads(json.dumps(row)) for row in STOCK]
    twins = {61 + n: n + 1 for n in range(0, 60, 10)}
    for line in sorted(twins):
        words = STOCK[twins[line] - 1]["prompt"].split()
        words[4] = words[4].upper() + "s"
        rows.append({"prompt": " ".join(words), "completion": "Other."})
    dataset = built(folder, rows)
    pairs = {61 + place: origin for place, origin in enumerate(sorted(twins.values()))}
    found = {(drop.line, int(drop.detail.split(":")[1].split(",")[0])) for drop in dataset.dropped}
    assert {drop.reason for drop in dataset.dropped} == {"near duplicate"}
    assert {frozenset(pair) for pair in found} == {frozenset(p) for p in pairs.items()}


def test_what_cleaning_empties_is_dropped(folder: Path) -> None:
    rows = [*STOCK, {"prompt": "a question", "completion": "\x07"}]
    rows.append({"prompt": "\x00 \x01", "completion": "an answer"})
    dropped = built(folder, rows).dropped
    assert [(d.line, d.reason, d.detail) for d in dropped] == [
        (61, "empty", "no answer is left after cleaning"),
        (62, "empty", "no question is left after cleaning"),
    ]


def test_an_instruction_that_every_record_repeats_is_told(folder: Path) -> None:
    same = "Sort this ticket into one of the six intents that our support desk knows: "
    rows = [{**row, "prompt": f"{same}{row['prompt']} {row['prompt'][::-1]}"} for row in STOCK]
    with pytest.raises(DataError, match="sort this ticket into one of the six") as caught:
        built(folder, rows)
    assert "data.system" in caught.value.hint


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b'{"prompt": "q"', r"a\.jsonl:3: not JSON"),
        (b'{"prompt": "q"}', r"a\.jsonl:3: no answer"),
        (b'{"prompt": "q", "completion": null}', r"a\.jsonl:3: no answer"),
        (b'{"prompt": "q", "completion": "\xff"}', r"a\.jsonl:3: not UTF-8 at byte \d+"),
        (b'{"frage": "q"}', r"a\.jsonl:3: unknown layout \(its fields: frage\)"),
    ],
)
def test_a_bad_line_stops_with_its_number(tmp_path: Path, line: bytes, message: str) -> None:
    good = [json.dumps(row).encode() for row in STOCK]
    (tmp_path / "a.jsonl").write_bytes(b"\n".join([*good[:2], line, *good[2:]]))
    with pytest.raises(DataError, match=message) as caught:
        build([FileSource(tmp_path / "a.jsonl", "a.jsonl")], RECIPE)
    assert caught.value.exit_code == 2
    assert caught.value.hint
