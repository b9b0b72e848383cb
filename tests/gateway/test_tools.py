"""Tools on the chat route, with OpenAI's own client and an engine that says what it is told."""

import json
from collections.abc import AsyncGenerator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from openai import OpenAI

from tests.gateway.echo import Echo
from tests.gateway.world import PROMPT, World, app_with, build_world, listening
from trimtab.inference import Chunk, GenerateRequest, Usage
from trimtab.text.tokenizer import Tokenizer

# As Qwen 2.5 writes tools, calls and results, cut to what matters.
HERMES = """{%- if tools %}<|im_start|>system
{%- for tool in tools %}
{{ tool | tojson }}
{%- endfor %}
Answer within <tool_call></tool_call> tags.<|im_end|>
{% endif %}
{%- for message in messages %}<|im_start|>{{ message.role }}
{{ message.content }}
{%- for tool_call in message.tool_calls or [] %}
<tool_call>
{"name": "{{ tool_call.function.name }}", "arguments": {{ tool_call.function.arguments | tojson }}}
</tool_call>
{%- endfor %}<|im_end|>
{% endfor %}
{%- if add_generation_prompt %}<|im_start|>assistant
{% endif %}"""
LLAMA = (
    HERMES.replace("within <tool_call></tool_call> tags", "with one JSON object")
    .replace("<tool_call>", "")
    .replace("</tool_call>", "")
)
CALL = '{"name": "weather", "arguments": {"city": "Köln"}}'
TOOLS: list[Any] = [
    {
        "type": "function",
        "function": {
            "name": name,
            "description": "Tells it.",
            "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
        },
    }
    for name in ("weather", "time")
]
USER: Any = {"role": "user", "content": PROMPT}


class Scripted(Echo):
    """Says `script`, some characters at a time."""

    script = ""

    async def generate(self, request: GenerateRequest) -> AsyncGenerator[Chunk, None]:
        self._take(request)
        for at in range(0, len(self.script), 7):
            yield Chunk(self.script[at : at + 7], (at,), (-0.5,))
        yield Chunk("", (), (), "stop", Usage(len(request.prompt), 5))


@contextmanager
def speaking(tmp_path: Path, base: Path, template: str) -> Iterator[tuple[OpenAI, Scripted, World]]:
    """Their client before a model with that chat template."""
    world = build_world(tmp_path, base, template)
    engine = Scripted(context=4096)
    with listening(app_with(world, engine), world.key.key) as client:
        theirs = OpenAI(api_key=world.key.key, base_url=f"{client.base_url}/v1", max_retries=0)
        yield theirs, engine, world
        theirs.close()
    world.database.close()


@pytest.fixture
def hermes(tmp_path: Path, base_folder: Path) -> Iterator[tuple[OpenAI, Scripted, World]]:
    with speaking(tmp_path, base_folder, HERMES) as found:
        yield found


def asked(engine: Scripted, base_folder: Path) -> str:
    request = engine.asked[-1]
    return Tokenizer(base_folder).decode(request.prompt, keep_special=True)


Hermes = tuple[OpenAI, Scripted, World]


def test_a_model_calls_a_tool_and_hears_its_answer(hermes: Hermes, base_folder: Path) -> None:
    theirs, engine, world = hermes
    engine.script = f"I look.\n<tool_call>\n{CALL}\n</tool_call>"
    create = theirs.chat.completions.create
    answer = create(model="desk", messages=[USER], tools=TOOLS)
    [choice] = answer.choices
    assert (choice.finish_reason, choice.message.content) == ("tool_calls", "I look.")
    assert choice.message.tool_calls is not None
    [call] = choice.message.tool_calls
    assert call.type == "function"
    assert call.function.name == "weather"
    assert json.loads(call.function.arguments) == {"city": "Köln"}
    prompt = asked(engine, base_folder)
    assert all(json.dumps(tool["function"]["name"]) in prompt for tool in TOOLS)
    engine.script = "Sunny."
    result: Any = {"role": "tool", "tool_call_id": call.id, "content": "18 degrees"}
    second = create(model="desk", messages=[USER, choice.message, result], tools=TOOLS)
    assert (second.choices[0].finish_reason, second.choices[0].message.content) == (
        "stop",
        "Sunny.",
    )
    assert second.choices[0].message.tool_calls is None
    prompt = asked(engine, base_folder)
    assert f"<tool_call>\n{CALL}\n</tool_call>" in prompt
    assert "<|im_start|>tool\n18 degrees<|im_end|>" in prompt
    assert world.account().held_nano == 0


def test_a_stream_tells_text_at_once_and_calls_whole(hermes: Hermes) -> None:
    theirs, engine, _ = hermes
    engine.script = f"I look it up.\n<tool_call>{CALL}</tool_call><tool_call>{CALL}</tool_call>"
    pieces = list(
        theirs.chat.completions.create(model="desk", messages=[USER], tools=TOOLS, stream=True)
    )
    deltas = [piece.choices[0].delta for piece in pieces]
    assert deltas[0].role == "assistant"
    assert "".join(delta.content or "" for delta in deltas) == "I look it up."
    calls = [call for delta in deltas for call in delta.tool_calls or ()]
    assert [call.index for call in calls] == [0, 1]
    assert len({call.id for call in calls}) == 2
    assert [json.loads(c.function.arguments) for c in calls if c.function and c.function.arguments]
    assert pieces[-1].choices[0].finish_reason == "tool_calls"
    with theirs.chat.completions.stream(model="desk", messages=[USER], tools=TOOLS) as stream:
        whole = stream.get_final_completion().choices[0].message
    assert whole.content == "I look it up."
    assert len(whole.tool_calls or ()) == 2


def test_no_more_than_one_call_where_that_was_asked(hermes: Hermes) -> None:
    theirs, engine, _ = hermes
    engine.script = f"<tool_call>[{CALL}, {CALL}]</tool_call>"
    answer = theirs.chat.completions.create(
        model="desk", messages=[USER], tools=TOOLS, parallel_tool_calls=False
    )
    assert len(answer.choices[0].message.tool_calls or ()) == 1
    assert answer.choices[0].message.content is None


@pytest.mark.parametrize(
    ("choice", "begins", "script"),
    [
        ("required", '<tool_call>\n{"name": "', 'time", "arguments": {}}\n</tool_call>'),
        (
            {"type": "function", "function": {"name": "time"}},
            '<tool_call>\n{"name": "time", "arguments": ',
            "{}}\n</tool_call>",
        ),
    ],
)
@pytest.mark.parametrize("streamed", [True, False])
def test_a_chosen_tool_is_put_into_the_models_mouth(
    hermes: Hermes, base_folder: Path, choice: Any, begins: str, script: str, streamed: bool
) -> None:
    theirs, engine, _ = hermes
    engine.script = script
    asking = {"model": "desk", "messages": [USER], "tools": TOOLS, "tool_choice": choice}
    if streamed:
        pieces = list(theirs.chat.completions.create(stream=True, **asking))
        calls: Any = [call for p in pieces for call in p.choices[0].delta.tool_calls or ()]
        assert not any(piece.choices[0].delta.content for piece in pieces)
    else:
        answer = theirs.chat.completions.create(**asking)
        calls = answer.choices[0].message.tool_calls
    assert [call.function.name for call in calls] == ["time"]
    assert asked(engine, base_folder).endswith(f"<|im_start|>assistant\n{begins}")


def test_no_tool_is_offered_where_none_may_be_called(hermes: Hermes, base_folder: Path) -> None:
    theirs, engine, _ = hermes
    engine.script = f"<tool_call>{CALL}</tool_call>"
    answer = theirs.chat.completions.create(
        model="desk", messages=[USER], tools=TOOLS, tool_choice="none"
    )
    assert answer.choices[0].message.content == engine.script
    assert answer.choices[0].finish_reason == "stop"
    assert "weather" not in asked(engine, base_folder)


def test_an_answer_of_nothing_but_a_call_is_one(tmp_path: Path, base_folder: Path) -> None:
    with speaking(tmp_path, base_folder, LLAMA) as (theirs, engine, _):
        engine.script = '{"name": "weather", "parameters": {"city": "Bonn"}}'
        answer = theirs.chat.completions.create(model="desk", messages=[USER], tools=TOOLS)
        assert answer.choices[0].finish_reason == "tool_calls"
        engine.script = "{}}"
        theirs.chat.completions.create(
            model="desk", messages=[USER], tools=TOOLS, tool_choice="required"
        )
        assert asked(engine, base_folder).endswith('{"name": "')


def test_the_same_calls_are_told_again(hermes: Hermes) -> None:
    theirs, engine, _ = hermes
    engine.script = f"<tool_call>{CALL}</tool_call>"
    first, again = (
        theirs.chat.completions.create(
            model="desk",
            messages=[USER],
            tools=TOOLS,
            extra_headers={"Idempotency-Key": "a"},
        )
        for _ in range(2)
    )
    # `created` says when it was told, this time.
    assert first == again.model_copy(update={"created": first.created})
    assert len(engine.asked) == 1


def test_a_template_that_knows_no_tools_says_so(
    world: World, client: httpx.Client, echo: Echo
) -> None:
    ask = {"model": "desk", "messages": [USER], "tools": TOOLS}
    answer = client.post("/v1/chat/completions", json=ask)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "tools")
    call = {"id": "c", "type": "function", "function": {"name": "time", "arguments": "{}"}}
    turns = [USER, {"role": "assistant", "tool_calls": [call]}]
    answer = client.post("/v1/chat/completions", json={"model": "desk", "messages": turns})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "messages")
    assert not echo.asked


FUNCTION = TOOLS[0]["function"]
UNFIT: list[tuple[str, dict[str, Any]]] = [
    ("tools.0.function.name", {"tools": [{"type": "function", "function": {"name": "a b"}}]}),
    ("tools.0.type", {"tools": [{"type": "retrieval", "function": FUNCTION}]}),
    ("tools", {"tools": [TOOLS[0]] * 2}),
    ("tools", {"tools": [{"type": "function", "function": {"name": f"f{n}"}} for n in range(129)]}),
    ("tool_choice", {"tool_choice": "required"}),
    (
        "tool_choice",
        {"tools": TOOLS, "tool_choice": {"type": "function", "function": {"name": "rm"}}},
    ),
    ("messages.1.tool_calls", {"messages": [USER, {"role": "user", "tool_calls": []}]}),
    ("messages.0", {"messages": [{"role": "tool", "content": "x"}]}),
    ("messages.0", {"messages": [{"role": "assistant"}]}),
    (
        "messages.0.tool_calls.0.function.arguments",
        {
            "messages": [
                {
                    "role": "assistant",
                    "tool_calls": [
                        {"id": "c", "function": {"name": "f", "arguments": "[" * 60_000}}
                    ],
                }
            ]
        },
    ),
]


@pytest.mark.parametrize(("field", "more"), UNFIT)
def test_what_does_not_fit_is_named(client: httpx.Client, field: str, more: dict[str, Any]) -> None:
    answer = client.post("/v1/chat/completions", json={"model": "desk", "messages": [USER], **more})
    assert answer.status_code == 400
    assert answer.json()["error"]["message"].startswith(f"{field}: ") or (
        answer.json()["error"]["param"] == field
    ), answer.text


@pytest.mark.parametrize("parameters", [b'{"x": NaN}', rb'{"x": "\ud800"}', b'{"x":' * 2000])
def test_what_is_no_json_cannot_describe_a_tool(client: httpx.Client, parameters: bytes) -> None:
    closing = b"}" * (2000 if parameters.count(b"{") > 1 else 0)
    body = (
        b'{"model": "desk", "messages": [{"role": "user", "content": "x"}], "tools": [{"type": '
        b'"function", "function": {"name": "f", "parameters": '
        + (parameters + b"1" + closing if closing else parameters)
        + b"}}]}"
    )
    answer = client.post(
        "/v1/chat/completions", content=body, headers={"Content-Type": "application/json"}
    )
    assert answer.status_code == 400, answer.text
