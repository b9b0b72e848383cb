"""The turns in a row: texts, or lists of turns in either spelling, read without guessing."""

import json
from typing import Any

from trimtab.data.sources import Row
from trimtab.errors import DataError
from trimtab.inference import Message

# ShareGPT's names of the roles; trainers that leave them as they are drop such turns silently.
ROLES = {
    "system": "system",
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "model": "assistant",
}
TURN = 'a turn is like {"role": "user", "content": "..."}'
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
    if not isinstance(said, str) or not isinstance(who, str):
        raise DataError(f"{row.place}: a turn without its role and content as text", hint=TURN)
    if who not in ROLES:
        raise DataError(f"{row.place}: unknown role '{who}'", hint=f"known: {', '.join(ROLES)}")
    return Message(ROLES[who], said)


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
