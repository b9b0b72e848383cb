"""The turns in a row: texts, or lists of turns in either spelling, read without guessing."""

import json
from typing import Any

from trimtab.data.sources import Row
from trimtab.errors import DataError
from trimtab.inference import Calling, Message, ToolCall, ToolResult

# ShareGPT's names of the roles; trainers that leave them as they are drop such turns silently.
ROLES = {
    "system": "system",
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "model": "assistant",
    "tool": "tool",
}
TURN = 'a turn is like {"role": "user", "content": "..."}'
CALL = 'the assistant calls like {"function": {"name": "...", "arguments": {}}}'
TOOL = 'a tool is like {"type": "function", "function": {"name": "...", "parameters": {}}}'
ANSWERS = ("completion", "output", "chosen", "rejected")


def is_turns(value: Any) -> bool:
    """Whether a field holds turns, and not a list that is an answer itself."""
    return isinstance(value, list) and any(
        isinstance(turn, dict) and {"role", "content"} <= turn.keys() for turn in value
    )


def turns(row: Row, field: str) -> list[Message]:
    """The turns of a field. Raises DataError where one is no turn."""
    found = row.fields[field]
    if not isinstance(found, list) or not found:
        raise DataError(f"{row.place}: field '{field}' is no list of turns", hint=TURN)
    return [turn(row, each) for each in found]


def turn(row: Row, found: Any) -> Message:
    """The two spellings, role + content and ShareGPT's, are found under either name of the list."""
    fields = found if isinstance(found, dict) else {}
    who, said = fields.get("role", fields.get("from")), fields.get("content", fields.get("value"))
    called = fields.get("tool_calls")
    if called and said is None:
        said = ""
    if not isinstance(said, str) or not isinstance(who, str):
        raise DataError(f"{row.place}: a turn without its role and content as text", hint=TURN)
    if who not in ROLES:
        raise DataError(f"{row.place}: unknown role '{who}'", hint=f"known: {', '.join(ROLES)}")
    if called:
        if ROLES[who] != "assistant" or not isinstance(called, list):
            raise DataError(f"{row.place}: a turn of '{who}' calls tools otherwise", hint=CALL)
        return Calling("assistant", said, tuple(_call(row, each) for each in called))
    if ROLES[who] == "tool":
        return ToolResult("tool", said, str(fields.get("tool_call_id") or ""))
    return Message(ROLES[who], said)


def tools(row: Row) -> list[Message]:
    """The turn that offers tools, where the row has some: a list, or the JSON of one."""
    found = row.fields.get("tools")
    if not found:
        return []
    found = _parsed(found)
    if not isinstance(found, list) or not all(_is_tool(each) for each in found):
        raise DataError(f"{row.place}: field 'tools' is no list of tools", hint=TOOL)
    return [Message("tools", _compact(row, "tools", found))]


def _is_tool(found: Any) -> bool:
    function = found.get("function") if isinstance(found, dict) else None
    return isinstance(function, dict) and isinstance(function.get("name"), str)


def _call(row: Row, found: Any) -> ToolCall:
    """Arguments are an object, or the JSON of one, as OpenAI's API has them."""
    function = found.get("function", found) if isinstance(found, dict) else {}
    name, arguments = function.get("name"), _parsed(function.get("arguments"))
    if not isinstance(name, str) or not isinstance(arguments, dict):
        raise DataError(f"{row.place}: a call without its name and arguments", hint=CALL)
    return ToolCall(str(found.get("id") or ""), name, arguments)


def _parsed(value: Any) -> Any:
    try:
        return json.loads(value) if isinstance(value, str) else value
    except ValueError:
        return None


def words(row: Row, field: str) -> str:
    """A field's text. An object becomes compact JSON with its keys in the order given."""
    value = row.fields.get(field)
    if isinstance(value, dict | list) and value:
        return _compact(row, field, value)
    if not isinstance(value, str) or not value.strip():
        what = "no answer" if field in ANSWERS else "nothing asked"
        raise DataError(f"{row.place}: {what}: field '{field}' is empty or missing", hint="add it")
    return value


def _compact(row: Row, field: str, value: Any) -> str:
    try:
        return json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    # A data set of the Hub may hold dates, bytes and pictures.
    except (TypeError, ValueError) as error:
        raise DataError(
            f"{row.place}: field '{field}' holds what is no JSON: {error}", hint="write it as text"
        ) from None
