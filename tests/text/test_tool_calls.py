"""Calls in what models say: the formats of three families, and everything that is none of them."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trimtab.text.tool_calls import Call, Listener, Spoken, opening, read

NAMES = {"weather", "add"}
WEATHER = '{"name": "weather", "arguments": {"city": "Köln"}}'
ADD = '{"name": "add", "parameters": {"a": 1, "b": [2.5, null]}}'
CALLS = (Call("weather", {"city": "Köln"}), Call("add", {"a": 1, "b": [2.5, None]}))


@pytest.mark.parametrize(
    ("text", "spoken"),
    [
        (f"<tool_call>\n{WEATHER}\n</tool_call>", Spoken("", CALLS[:1])),
        (f"Let me see.\n<tool_call>{WEATHER}</tool_call>\n<tool_call>\n{ADD}", None),
        (f"<tool_call>[{WEATHER}, {ADD}]</tool_call>", Spoken("", CALLS)),
        (f"  {ADD} ", Spoken("", CALLS[1:])),
        (f"<|python_tag|>{WEATHER}; {ADD}", Spoken("", CALLS)),
        ('{"name": "add", "arguments": "{\\"a\\": 1}"}', Spoken("", (Call("add", {"a": 1}),))),
    ],
)
def test_calls_are_read_in_every_known_form(text: str, spoken: Spoken | None) -> None:
    assert read(text, NAMES) == (spoken or Spoken("Let me see.", CALLS))


@pytest.mark.parametrize(
    "text",
    [
        "No tool is needed.",
        '{"name": "weather"}',
        '{"name": "rm", "arguments": {}}',
        '{"name": ["weather"], "arguments": {}}',
        '{"name": "weather", "arguments": [1]}',
        '{"name": "weather", "arguments": {"x": NaN}}',
        f"<tool_call>{WEATHER}</tool_call><tool_call>{{</tool_call>",
        f"<tool_call>[{WEATHER}, 3]</tool_call>",
        "<tool_call></tool_call>",
        "<tool_call>[]</tool_call>",
        f"{WEATHER} and {ADD}",
        "[" * 100_000,
        '{"name": "add", "arguments": ' + '{"a":' * 100_000,
        '{"name": "add", "arguments": {"a": ' + "9" * 100_000 + "}}",
    ],
)
def test_what_is_not_wholly_a_call_is_text(text: str) -> None:
    assert read(text, NAMES) == Spoken(text)


@pytest.mark.parametrize("tagged", [True, False])
def test_an_opening_is_gone_on_from(tagged: bool) -> None:
    end = "}\n</tool_call>" if tagged else "}"
    assert read(opening(tagged, "add") + '{"a": 1}' + end, NAMES).calls == (Call("add", {"a": 1}),)
    key = "arguments" if tagged else "parameters"
    some = opening(tagged) + f'weather", "{key}": {{}}' + end
    assert read(some, NAMES).calls == (Call("weather", {}),)


PIECES = st.sampled_from(
    ["Hi", " ", "\n", "<", "<tool", "_call>", "</tool_call>", WEATHER, ADD, "{", ";", "ü"]
)


@settings(max_examples=200)
@given(said=st.lists(PIECES, max_size=8), cut=st.integers(1, 5), due=st.booleans())
def test_pieces_say_what_the_whole_says(said: list[str], cut: int, due: bool) -> None:
    """However an answer is cut, what is told is its text, and no part of a call."""
    text = "".join(said)
    heard = Listener(NAMES, due)
    told = "".join(heard.push(text[at : at + cut]) for at in range(0, len(text), cut))
    end, whole = heard.end(text), read(text, NAMES)
    assert end.calls == whole.calls
    assert told + end.text == whole.text
    assert not (due and told)
    if whole.calls:
        assert "<tool_call>" not in told


@settings(max_examples=100)
@given(
    value=st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    ),
    frame=st.sampled_from(["{}", "<tool_call>{}</tool_call>", "x{}", "<tool_call>{}"]),
)
def test_no_answer_breaks_the_reading(value: object, frame: str) -> None:
    text = frame.replace("{}", json.dumps({"name": "add", "arguments": value}))
    found = read(text, NAMES).calls
    assert bool(found) == (isinstance(value, dict) and not frame.startswith("x"))
