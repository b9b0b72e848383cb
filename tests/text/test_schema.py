"""Schemas against the validator of `jsonschema`, and what is refused, by name and in time."""

import json
import signal
import subprocess
from typing import Any

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trimtab.errors import EngineError, RequestRefused
from trimtab.text.schema import (
    MOST,
    OUT_OF_MEMORY,
    Vocabulary,
    checked,
    compiled,
    opened,
    satisfies,
)

TICKET = {
    "type": "object",
    "properties": {
        "intent": {"enum": ["billing", "bug"]},
        "tags": {"type": "array", "items": {"type": "string", "maxLength": 5}, "maxItems": 2},
        "reply": {"type": "string"},
    },
    "required": ["intent", "reply"],
    "additionalProperties": False,
}
values = st.recursive(
    st.none() | st.booleans() | st.integers(-20, 20) | st.text('ab é🙂"\\\n', max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("abc"), inner),
    max_leaves=6,
)
leaves = st.sampled_from(
    [
        {"type": "string", "maxLength": 3},
        {"type": "integer", "minimum": -5, "maximum": 7},
        {"type": "boolean"},
        {"type": "null"},
        {"enum": ["ab", 3, None]},
        {},
    ]
)
schemas = st.recursive(
    leaves,
    lambda inner: (
        inner.map(lambda item: {"type": "array", "items": item, "maxItems": 2})
        | st.lists(inner, min_size=1, max_size=2).map(lambda each: {"anyOf": each})
        | st.dictionaries(st.sampled_from("abc"), inner, min_size=1, max_size=3).map(
            lambda named: {
                "type": "object",
                "properties": named,
                "required": sorted(named)[:1],
                "additionalProperties": False,
            }
        )
    ),
    max_leaves=5,
)


def valid(schema: Any, value: Any) -> bool:
    return bool(jsonschema.Draft202012Validator(schema).is_valid(value))


@settings(max_examples=150, deadline=None)
@given(schema=schemas, value=values)
def test_a_text_satisfies_a_schema_as_a_validator_says(schema: Any, value: Any) -> None:
    text = json.dumps(value)
    if satisfies(json.dumps(schema), text):
        assert valid(schema, value)
    elif "anyOf" not in json.dumps(schema):
        # Behind `anyOf` the order of keys is not looked for.
        assert not valid(schema, value)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('{"intent": "bug", "reply": "Sorry."}', True),
        ('{"reply": "Größe 🙂", "intent": "bug", "tags": ["a"]}', True),
        ('{"intent": "bug"}', False),
        ('{"intent": "other", "reply": ""}', False),
        ('{"intent": "bug", "reply": "", "more": 1}', False),
        ("Please try again later.", False),
        ("", False),
    ],
)
def test_a_template_satisfies_or_does_not(text: str, told: bool) -> None:
    assert satisfies(json.dumps(TICKET), text) is told


@pytest.mark.parametrize(
    ("schema", "named"),
    [
        ({"not": {"type": "string"}}, '"not"'),
        ({"type": "frob"}, "frob"),
        ({"type": "string", "pattern": "(?=x)y"}, "look-ahead"),
        ({"$ref": "http://127.0.0.1/schema"}, "127.0.0.1"),
        ({"$ref": "#/nope"}, "nope"),
        ({"type": "array", "minItems": 5, "maxItems": 2}, "minItems"),
        (
            {"x-guidance": {"lenient": True}, "type": "object", "unevaluatedProperties": False},
            "unevaluatedProperties",
        ),
        ([], "object"),
        ({"enum": ["\ud800"]}, "hex escape"),
    ],
)
def test_what_a_schema_cannot_have_is_named(schema: Any, named: str) -> None:
    with pytest.raises(RequestRefused, match="schema: ") as caught:
        compiled(json.dumps(schema), opened(Vocabulary()))
    assert named in caught.value.message
    assert "\n" not in caught.value.message
    assert caught.value.hint


@pytest.mark.parametrize("text", ["{", '{"type": "string"', '"\\ud800', "[" * 5000])
def test_noise_is_no_schema(text: str) -> None:
    with pytest.raises(RequestRefused, match="schema: "):
        checked(text, Vocabulary())


def nested(depth: int) -> str:
    return '{"default": ' + "[" * (depth - 1) + "]" * (depth - 1) + "}"


@pytest.mark.parametrize(
    "schema",
    ['{"items":' + "[" * 600 + "]" * 600 + "}", '{"items":' * 200 + "{}" + "}" * 200, nested(65)],
)
def test_a_schema_that_is_too_deep_is_refused(schema: str) -> None:
    for look in (lambda: checked(schema, Vocabulary()), lambda: satisfies(schema, "[]")):
        with pytest.raises(RequestRefused, match="levels deep, 64 are allowed"):
            look()


def test_depths_that_are_no_schemas_fault() -> None:
    checked(nested(64), Vocabulary())
    deep = "[" * 900 + "]" * 900
    assert not satisfies('{"items": {"type": "integer"}}', deep)


def test_a_schema_that_is_too_long_is_refused() -> None:
    with pytest.raises(RequestRefused, match="characters long"):
        checked(json.dumps({"enum": ["x" * MOST]}), Vocabulary())


def test_a_schema_that_would_compile_for_minutes_is_refused_in_time() -> None:
    with pytest.raises(RequestRefused, match="too long to compile"):
        checked(json.dumps({"type": "integer", "multipleOf": 1000003}), Vocabulary())


@pytest.mark.parametrize(
    ("code", "error", "named"),
    [
        (OUT_OF_MEMORY, RequestRefused, "too much memory"),
        (-signal.SIGABRT, RequestRefused, "too much memory"),
        (-signal.SIGXCPU, RequestRefused, "too long"),
        (1, EngineError, "ended with 1"),
        (-signal.SIGSEGV, EngineError, "ended with -11"),
    ],
)
def test_how_a_trial_ends_is_told_as_it_is(
    monkeypatch: pytest.MonkeyPatch, code: int, error: type[EngineError], named: str
) -> None:
    ended = subprocess.CompletedProcess([], code, stdout=b"")
    monkeypatch.setattr(subprocess, "run", lambda *args, **more: ended)
    with pytest.raises(EngineError, match=named) as caught:
        checked('{"not": {}}', Vocabulary())
    assert type(caught.value) is error


def test_more_than_plain_keywords_are_tried_apart_and_pass() -> None:
    plain: dict[str, Any] = {"$defs": {"a": {"type": "string", "pattern": "^[a-z]{2}$"}}}
    schema = json.dumps({**plain, "type": "array", "items": {"$ref": "#/$defs/a"}})
    checked(schema, Vocabulary())
    assert satisfies(schema, '["ab", "cd"]')
    assert not satisfies(schema, '["ab", "CD"]')
