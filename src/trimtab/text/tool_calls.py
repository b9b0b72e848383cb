"""Calls of tools in what a model says.

Two ways of writing them are known: objects between <tool_call> tags, as Hermes, Qwen and SmolLM do
(https://github.com/NousResearch/Hermes-Function-Calling), and an answer that is nothing but
objects, as Llama 3 does (https://www.llama.com/docs/model-cards-and-prompt-formats/llama3_1). What
is not wholly a call of a tool that was offered is text: nothing is guessed, and nothing is lost.
"""

import json
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, NoReturn

from trimtab.inference import Calling

OPEN, CLOSE = "<tool_call>", "</tool_call>"
PYTHON_TAG = "<|python_tag|>"


@dataclass(frozen=True, slots=True)
class Call:
    """`arguments` is a JSON object."""

    name: str
    arguments: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Spoken:
    """What was said beside the calls, and the calls in their order."""

    text: str
    calls: tuple[Call, ...] = ()


def read(text: str, names: Collection[str]) -> Spoken:
    """The calls of the tools `names` in a whole answer."""
    found = _tagged(text, names) if OPEN in text else _bare(text, names)
    return found or Spoken(text)


def written(turn: Calling) -> str:
    """A turn that calls tools as one text, each call between its tags."""
    calls = [{"name": call.name, "arguments": dict(call.arguments)} for call in turn.calls]
    told = [f"{OPEN}\n{json.dumps(call, ensure_ascii=False)}\n{CLOSE}" for call in calls]
    return "\n".join([turn.content, *told] if turn.content else told)


def opening(tagged: bool, name: str | None = None) -> str:
    """What an answer begins with that calls some tool, or the tool `name`."""
    begin = f'{OPEN}\n{{"name": "' if tagged else '{"name": "'
    if name is None:
        return begin
    return f'{begin}{name}", "{"arguments" if tagged else "parameters"}": '


class Listener:
    """Hears an answer in pieces, and passes on what can be no part of a call; nothing where a call
    is `due` from the first word on."""

    def __init__(self, names: Collection[str], due: bool = False) -> None:
        self._names = names
        self._due = due
        self._text = ""
        self._sent = 0

    def push(self, piece: str) -> str:
        """The text that is certain to be text now; it may be empty."""
        self._text += piece
        end = max(self._sent, self._certain())
        told, self._sent = self._text[self._sent : end], end
        return told

    def end(self, whole: str) -> Spoken:
        """The calls in the whole answer, and the text that was kept back."""
        spoken = read(whole, self._names)
        return Spoken(spoken.text[self._sent :], spoken.calls)

    def _certain(self) -> int:
        begun = self._text.lstrip()
        if self._due or begun.startswith(("{", PYTHON_TAG)) or PYTHON_TAG.startswith(begun):
            return 0
        tag = self._text.find(OPEN)
        end = len(self._text) if tag < 0 else tag
        if tag < 0:
            end -= next(
                (n for n in range(len(OPEN) - 1, 0, -1) if self._text.endswith(OPEN[:n])), 0
            )
        # Blanks before a call belong to neither.
        return len(self._text[:end].rstrip())


def _tagged(text: str, names: Collection[str]) -> Spoken | None:
    said, *blocks = text.split(OPEN)
    calls: list[Call] = []
    for block in blocks:
        # A model may stop right behind the object, and leave out the tag.
        inner, _, behind = block.partition(CLOSE)
        found = _calls(inner, names)
        if found is None:
            return None
        calls += found
        said += behind
    return Spoken(said.rstrip(), tuple(calls))


def _bare(text: str, names: Collection[str]) -> Spoken | None:
    rest = text.strip().removeprefix(PYTHON_TAG).lstrip()
    calls: list[Call] = []
    while rest.startswith("{"):
        try:
            value, end = _DECODER.raw_decode(rest)
        except (ValueError, RecursionError):
            return None
        call = _call(value, names)
        if call is None:
            return None
        calls.append(call)
        rest = rest[end:].lstrip(" \t\r\n;")
    return Spoken("", tuple(calls)) if calls and not rest else None


def _calls(text: str, names: Collection[str]) -> list[Call] | None:
    """One object, or a list of them."""
    try:
        value = _DECODER.decode(text.strip())
    except (ValueError, RecursionError):
        return None
    found = [_call(each, names) for each in (value if isinstance(value, list) else [value])]
    calls = [call for call in found if call is not None]
    return calls if calls and len(calls) == len(found) else None


def _call(value: Any, names: Collection[str]) -> Call | None:
    name = value.get("name") if isinstance(value, dict) else None
    if not isinstance(name, str) or name not in names:
        return None
    arguments = value.get("arguments", value.get("parameters"))
    if isinstance(arguments, str):
        try:
            arguments = _DECODER.decode(arguments)
        except (ValueError, RecursionError):
            return None
    return Call(name, arguments) if isinstance(arguments, dict) else None


def _no_number(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON")


_DECODER = json.JSONDecoder(parse_constant=_no_number)
