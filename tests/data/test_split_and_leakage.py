import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.data.made import record
from trimtab.data.leakage import free_wording, grams, without_leaks
from trimtab.data.record import words
from trimtab.data.split import SPLITS, split

SHARES = {"holdout": 0.2, "shadow": 0.1, "seed": 3}


@given(st.lists(st.text(min_size=1), min_size=1, unique=True), st.text(min_size=1))
def test_adding_records_moves_none(texts: list[str], more: str) -> None:
    before = split([record(text) for text in texts], **SHARES)
    after = split([record(text) for text in [*texts, more]], **SHARES)
    for name in SPLITS:
        assert set(before[name]) <= set(after[name])


def test_the_shares_are_about_what_was_asked_for() -> None:
    parts = split([record(f"question {number}") for number in range(5000)], **SHARES)
    shares = {name: len(part) / 5000 for name, part in parts.items()}
    assert abs(shares["holdout"] - 0.2) < 0.02
    assert abs(shares["shadow"] - 0.1) < 0.02


def test_the_same_prompt_lands_in_one_split() -> None:
    parts = split([record("Q one", "a"), record("q  ONE", "b")], **SHARES)
    assert sorted(len(part) for part in parts.values()) == [0, 0, 2]


SHARED = "i would like my money back for the broken thing"


def test_eight_shared_words_are_a_leak_and_seven_are_none() -> None:
    held = record(f"{SHARED} please", "ok", 9)
    seven = " ".join(SHARED.split()[:7])
    kept, dropped = without_leaks([record(f"hello, {SHARED}"), record(seven, line=2)], [held])
    assert [one.line for one in kept] == [2]
    assert dropped[0].reason == "leak"
    assert "held-out made.jsonl:9" in dropped[0].detail


def test_labels_of_a_json_answer_are_no_leak_but_its_sentences_are() -> None:
    answer = '{"intent":"refund","urgency":"high","reply":"%s"}'
    held = record("a question", answer % "we are so very sorry and send the money back")
    labels = record("another thing", answer % "certainly, it is on the way to you now my friend")
    wording = record("a third", answer % "well, we are so very sorry and send the money")
    kept, dropped = without_leaks([labels, wording], [held])
    assert (kept, [drop.record for drop in dropped]) == ([labels], [wording.hash])


def test_free_wording() -> None:
    assert free_wording("plain words") == ["plain words"]
    assert free_wording('{"a":"x","b":["one two three four"],"c":3}') == ["one two three four"]


@pytest.mark.parametrize("depth", [900, 1_000_000])
def test_an_answer_that_nests_deeply_is_read_or_is_plain_words(depth: int) -> None:
    answer = "[" * depth + '"one two three four"' + "]" * depth
    assert free_wording(answer) in (["one two three four"], [answer])


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("Well, isn't it?", 4),
        ("हिन्दी में लिखा हुआ एक वाक्य", 6),
        ("كِتَابٌ جَدِيدٌ", 2),
        ("今日は good", 4),
    ],
)
def test_words_are_counted_in_every_script(text: str, count: int) -> None:
    assert len(words(text)) == count


WORDS = st.lists(st.sampled_from(["red", "green", "blue", "one", "two"]), min_size=1, max_size=24)


@settings(max_examples=60)
@given(st.lists(WORDS, max_size=6), st.lists(WORDS, max_size=4))
def test_after_the_check_no_gram_is_shared(train: list[list[str]], held: list[list[str]]) -> None:
    held_out = [record(" ".join(words), "x") for words in held]
    kept, dropped = without_leaks([record(" ".join(words), "y") for words in train], held_out)
    taken = {gram for one in held_out for gram in grams(one)}
    assert not any(gram in taken for one in kept for gram in grams(one))
    assert len(kept) + len(dropped) == len(train)
