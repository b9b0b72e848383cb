"""A turn of a dialogue, and how it lies in JSON. Knows no template and no tokens."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a dialogue; `role` is system, user or assistant. Before all may stand one of
    the role `tools`: those that are offered, as a JSON list of what OpenAI's API calls so.
    """

    role: str
    content: str


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A call of a tool that a model asked for; `arguments` is a JSON object."""

    id: str
    name: str
    arguments: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Calling(Message):
    """A turn of the assistant that calls tools; its `content` may be empty."""

    calls: tuple[ToolCall, ...] = ()


@dataclass(frozen=True, slots=True)
class ToolResult(Message):
    """What a tool answered to the call `call_id`; its role is `tool`."""

    call_id: str = ""


def message_json(message: Message) -> list[Any]:
    """A message as plain JSON: role, content, and what beside them makes it another kind."""
    if isinstance(message, Calling):
        calls = [[call.id, call.name, dict(call.arguments)] for call in message.calls]
        return [message.role, message.content, {"calls": calls}]
    if isinstance(message, ToolResult):
        return [message.role, message.content, {"call_id": message.call_id}]
    return [message.role, message.content]


def message_of_json(value: Sequence[Any]) -> Message:
    """What `message_json` wrote."""
    role, content, *beside = value
    if not beside:
        return Message(role, content)
    if "calls" in beside[0]:
        return Calling(role, content, tuple(ToolCall(*call) for call in beside[0]["calls"]))
    return ToolResult(role, content, beside[0]["call_id"])
