from hypothesis import given, settings
from hypothesis import strategies as st

from tests.data.made import record
from trimtab.data.deduplicate import SIMILAR, deduplicate, jaccard, shingles

LONG = "the keypad of my front door stopped taking the code after the storm last night"


def test_letters_and_spaces_make_no_difference() -> None:
    kept, dropped = deduplicate([record(LONG, line=1), record(f"  {LONG.upper()} ", line=2)])
    assert len(kept) == 1
    assert [(d.reason, d.line != kept[0].line) for d in dropped] == [("exact duplicate", True)]
    assert dropped[0].detail == f"of made.jsonl:{kept[0].line}"


def test_a_word_changed_is_a_near_duplicate_and_names_its_twin() -> None:
    kept, dropped = deduplicate(
        [record(LONG, line=1), record(LONG.replace("storm", "rain"), line=2)]
    )
    assert len(kept) == 1
    assert dropped[0].reason == "near duplicate"
    assert f"of made.jsonl:{kept[0].line}, Jaccard 0." in dropped[0].detail


def test_the_same_question_with_two_answers_is_kept_once_and_tells_it() -> None:
    kept, dropped = deduplicate([record(LONG, "Yes.", 1), record(LONG, "No.", 2)])
    assert (len(kept), dropped[0].reason) == (1, "near duplicate")
    assert dropped[0].detail == f"of {kept[0].place}, Jaccard 1.00, with another answer"


def test_a_near_duplicate_with_the_same_answer_says_nothing_of_it() -> None:
    _, dropped = deduplicate([record(LONG, line=1), record(LONG.replace("storm", "rain"), line=2)])
    assert "answer" not in dropped[0].detail


def test_different_questions_stay() -> None:
    kept, dropped = deduplicate(
        [record(LONG), record("please send the invoice of march to my accountant", line=2)]
    )
    assert (len(kept), dropped) == (2, [])


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.text("abcde ", min_size=1, max_size=40).filter(str.strip), max_size=12),
    st.randoms(use_true_random=False),
)
def test_the_order_does_not_matter_and_nothing_similar_stays(
    texts: list[str], chance: object
) -> None:
    records = [record(text, line=number) for number, text in enumerate(texts)]
    kept, dropped = deduplicate(records)
    chance.shuffle(records)  # type: ignore[attr-defined]
    again, _ = deduplicate(records)
    assert kept == again
    assert len(kept) + len(dropped) == len(records)
    grams = [shingles(one.asked) for one in kept]
    assert all(
        jaccard(one, other) < SIMILAR for place, one in enumerate(grams) for other in grams[:place]
    )
