from datetime import date
from typing import Any

import pytest

from trimtab.data.layout import record_of
from trimtab.data.sources import Row
from trimtab.errors import DataError


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
