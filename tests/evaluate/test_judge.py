import json
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trimtab.errors import DataError
from trimtab.evaluate.judge import exact_match, gold_fields, normalise, parse_object, valid_json

GOLD = '{"intent": "billing", "urgency": 2, "reply": "We will."}'

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=6,
)
objects = st.dictionaries(st.text(max_size=6), values, min_size=1, max_size=4)


@pytest.mark.parametrize(
    ("answer", "right"),
    [
        ('{"intent": "billing", "urgency": 2}', True),
        ('{"urgency": 2,\n "intent": "billing", "reply": "other words"}', True),
        ('{"intent": "billing", "urgency": "2"}', False),
        ('{"intent": "billing", "urgency": 2.5}', False),
        ('{"intent": "billing", "urgency": true}', False),
        ('{"intent": "billing"}', False),
        ('{"intent": "Billing", "urgency": 2}', False),
        ('Sure! {"intent": "billing", "urgency": 2}', False),
        ('```json\n{"intent": "billing", "urgency": 2}\n```', False),
        ('{"intent": "billing", "urgency": 2', False),
        ("", False),
    ],
)
def test_the_named_fields_decide(answer: str, right: bool) -> None:
    assert exact_match(answer, GOLD, ["intent", "urgency"]) is right


def test_without_fields_the_whole_text_decides() -> None:
    assert exact_match("  We will\n help. ", "We will help.", [])
    assert exact_match("Cafe\u0301", "Caf\u00e9", [])
    assert not exact_match("we will help.", "We will help.", [])


@settings(deadline=None, max_examples=50)
@given(objects, st.randoms())
def test_the_order_and_spacing_of_fields_never_decide(
    gold: dict[str, object], random: Random
) -> None:
    names = list(gold)
    random.shuffle(names)
    answer = json.dumps({name: gold[name] for name in names}, indent=3)
    assert exact_match(answer, json.dumps(gold), names)
    assert valid_json(answer, frozenset(gold))


@pytest.mark.parametrize(
    "text",
    [
        '{"a": 1, "a": 2}',
        '{"a": NaN}',
        '{"a": Infinity}',
        '{"a": 1e999}',
        '{"a": 1} {"b": 2}',
        "[1]",
        '"text"',
        "null",
        '{"a": "\\ud800"}',
        "[" * 100_000,
    ],
)
def test_what_is_not_one_strict_object_is_none(text: str) -> None:
    assert parse_object(text) is None


def test_valid_json_has_the_expected_fields_and_no_others() -> None:
    fields = frozenset({"a", "b"})
    assert valid_json('{"b": null, "a": 1}', fields)
    assert not valid_json('{"a": 1}', fields)
    assert not valid_json('{"a": 1, "b": 2, "c": 3}', fields)


def test_a_gold_answer_that_cannot_be_matched_names_its_item() -> None:
    with pytest.raises(DataError, match=r"item abcdefabcdef.*not a JSON object"):
        gold_fields("abcdef" * 4, "plain words", ["intent"])
    with pytest.raises(DataError, match="no field 'topic'") as caught:
        gold_fields("abcdef" * 4, GOLD, ["intent", "topic"])
    assert "intent, urgency, reply" in caught.value.hint


@settings(deadline=None, max_examples=50)
@given(st.text())
def test_normalising_twice_changes_nothing(text: str) -> None:
    assert normalise(normalise(text)) == normalise(text)
