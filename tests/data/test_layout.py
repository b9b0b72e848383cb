import json
from datetime import date
from typing import Any

import pytest

from trimtab.data.layout import record_of
from trimtab.data.sources import Row
from trimtab.errors import DataError
from trimtab.inference import (
    Calling,
    Message,
    ToolCall,
    ToolResult,
    message_json,
    message_of_json,
)


def turns(fields: dict[str, Any]) -> list[tuple[str, str]]:
    return [(m.role, m.content) for m in record_of(Row(fields, "s", 7)).messages]


ASKED = [("user", "q"), ("assistant", "a")]


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"prompt": "q", "completion": "a"}, ASKED),
        ({"instruction": "q", "input": "", "output": "a"}, ASKED),
        ({"instruction": "q", "input": "<noinput>", "output": "a"}, ASKED),
        ({"instruction": "q", "input": None, "output": "a"}, ASKED),
        (
            {"instruction": "q", "input": "x", "output": "a"},
            [("user", "q\n\nx"), ("assistant", "a")],
        ),
        (
            {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]},
            ASKED,
        ),
        (
            {"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]},
            ASKED,
        ),
        (
            {
                "conversations": [
                    {"role": "user", "content": "q"},
                    {"role": "assistant", "content": "a"},
                ]
            },
            ASKED,
        ),
        (
            {
                "prompt": [{"role": "user", "content": "q"}],
                "completion": [{"role": "assistant", "content": "a"}],
            },
            ASKED,
        ),
        ({"prompt": "q", "completion": "a", "label": True}, ASKED),
        ({"prompt": "q", "completion": "a", "label": "spam"}, ASKED),
        ({"prompt": "q", "completion": "a", "label": None, "kto_tag": True}, ASKED),
        ({"instruction": "q", "output": "a", "history": []}, ASKED),
        ({"prompt": "q", "completion": [1, {"x": 2}]}, [ASKED[0], ("assistant", '[1,{"x":2}]')]),
        ({"system": "be kind", "prompt": "q", "completion": "a"}, [("system", "be kind"), *ASKED]),
        ({"system": "", "instruction": "q", "output": "a"}, ASKED),
        (
            {
                "prompt": "q",
                "chosen": "b",
                "rejected": "c",
                "messages": [
                    {"role": "user", "content": "q"},
                    {"role": "assistant", "content": "a"},
                ],
            },
            ASKED,
        ),
    ],
)
def test_known_layouts(fields: dict[str, Any], expected: list[tuple[str, str]]) -> None:
    assert turns(fields) == expected


def test_an_object_as_answer_becomes_compact_json_in_its_own_order() -> None:
    answer = turns({"prompt": "q", "completion": {"b": 1, "a": "ü"}})[-1][1]
    assert answer == '{"b":1,"a":"ü"}'


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"prompt": "q"}, "s:7: no answer"),
        ({"prompt": "q", "completion": " "}, "s:7: no answer"),
        ({"prompt": "q", "completion": {}}, "s:7: no answer"),
        ({"prompt": "q", "completion": 3}, "s:7: no answer"),
        ({"prompt": "", "completion": "a"}, "s:7: nothing asked"),
        ({"instruction": "q", "output": ""}, "s:7: no answer"),
        ({"instruction": "q", "input": 3, "output": "a"}, "field 'input' is no text"),
        ({"messages": []}, "no list of turns"),
        ({"messages": [{"role": "user", "content": "q"}]}, "no answer: the last turn"),
        ({"messages": [{"role": "assistant", "content": "a"}]}, "nothing asked: no turn"),
        ({"messages": [{"role": "robot", "content": "a"}]}, "unknown role 'robot'"),
        ({"messages": [{"role": "user", "content": None}]}, "a turn without"),
        ({"messages": ["q", "a"]}, "a turn without"),
        ({"prompt": [{"role": "user", "content": "q"}]}, "s:7: no answer"),
        ({"prompt": "q", "chosen": "a", "rejected": "b"}, "a preference pair"),
        ({"prompt": "q", "completion": "a", "label": False}, "not to be learnt"),
        ({"prompt": "q", "completion": "a", "label": "False"}, "its label says"),
        ({"instruction": "q", "output": "a", "kto_tag": False}, "its kto_tag says"),
        ({"instruction": "q", "output": "a", "history": [["b", "c"]]}, "a field 'history'"),
        (
            {"prompt": "q", "completion": {"on": date(2026, 1, 2)}},
            "is no JSON: Object of type date",
        ),
        ({"prompt": "q", "completion": [float("nan")]}, "is no JSON"),
        ({"question": "q", "answer": "a"}, r"unknown layout \(its fields: answer, question\)"),
    ],
)
def test_what_is_no_record_names_its_place(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message) as caught:
        record_of(Row(fields, "s", 7))
    assert caught.value.message.startswith("s:7: ")


WEATHER = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}


def calling(arguments: object) -> dict[str, Any]:
    call = {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": arguments}}
    turns = [
        {"role": "user", "content": "q"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
    ]
    return {"messages": turns, "tools": [WEATHER]}


@pytest.mark.parametrize("arguments", [{"city": "Rome"}, '{"city": "Rome"}'])
def test_tools_their_calls_and_their_answers_are_read(arguments: object) -> None:
    fields = calling(arguments)
    record = record_of(Row(fields, "s", 7))
    call = Calling("assistant", "", (ToolCall("c1", "weather", {"city": "Rome"}),))
    offer, _, last = record.messages
    assert (offer.role, json.loads(offer.content)) == ("tools", [WEATHER])
    assert last == call
    assert record.answer == (
        '<tool_call>\n{"name": "weather", "arguments": {"city": "Rome"}}\n</tool_call>'
    )
    said = [
        {"role": "tool", "tool_call_id": "c1", "content": "sun"},
        {"role": "assistant", "content": "Sunny."},
    ]
    longer = record_of(Row(fields | {"messages": [*fields["messages"], *said]}, "s", 8))
    assert longer.messages[2:] == (
        call,
        ToolResult("tool", "sun", "c1"),
        Message("assistant", "Sunny."),
    )
    again = [message_of_json(message_json(each)) for each in longer.messages]
    assert tuple(again) == longer.messages
    other = record_of(Row(calling({"city": "Oslo"}), "s", 9))
    assert len({record.hash, longer.hash, other.hash}) == 3


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (calling("Rome"), "a call without its name and arguments"),
        (calling({}) | {"tools": {"name": "weather"}}, "'tools' is no list of tools"),
        (calling({}) | {"tools": "[1"}, "'tools' is no list of tools"),
    ],
)
def test_what_is_no_tool_and_no_call_is_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        record_of(Row(fields, "s", 7))
