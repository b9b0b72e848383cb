"""The layouts that users bring, each turned into the normal form.

Prompt and completion (as texts, or as lists of turns), Alpaca's instruction and output, messages,
ShareGPT's conversations; each may bring a `system` field. A row without an answer, or with one that
is not to be learnt, is an error that names its line: nothing is guessed.
"""

import json
from collections.abc import Callable
from typing import Any

from trimtab.data.record import Record
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
LAYOUTS = "prompt + completion, instruction (+ input) + output, messages, conversations"
TURN = 'a turn is like {"role": "user", "content": "..."}'
NO_INPUT = {"", "<noinput>"}
# Where TRL and LLaMA-Factory keep whether an answer was found good.
JUDGED = ("label", "kto_tag")


def record_of(row: Row) -> Record:
    """The record in a row. Raises DataError with the row's place where it holds none."""
    _refuse_judged(row)
    for mark, read in _READERS:
        if mark in row.fields:
            messages = [*_system(row), *read(row)]
            return Record(_closed(row, messages), row.source, row.line)
    keys = ", ".join(sorted(map(str, row.fields))) or "none"
    raise DataError(f"{row.place}: unknown layout (its fields: {keys})", hint=f"known: {LAYOUTS}")


def _refuse_judged(row: Row) -> None:
    """Answers that somebody judged to be bad would be learnt as if they were good."""
    if "messages" not in row.fields and {"chosen", "rejected"} <= row.fields.keys():
        raise DataError(
            f"{row.place}: a preference pair, where one answer is to be learnt",
            hint="rename 'chosen' to 'completion' and leave 'rejected' out",
        )
    for mark in JUDGED:
        # A CSV file holds the word.
        if str(row.fields.get(mark)).lower() == "false":
            raise DataError(
                f"{row.place}: its {mark} says that the answer is not to be learnt",
                hint=f"leave out the records whose {mark} is false",
            )


def _refuse_history(row: Row) -> None:
    """Without what was said before, the answer would be learnt for another question."""
    if row.fields.get("history"):
        raise DataError(
            f"{row.place}: a field 'history' beside the question",
            hint="write the whole dialogue as messages",
        )


def _system(row: Row) -> list[Message]:
    said = row.fields.get("system")
    return [Message("system", said)] if isinstance(said, str) and said.strip() else []


def _prompt_and_completion(row: Row) -> list[Message]:
    asked, answered = row.fields["prompt"], row.fields.get("completion")
    question = (
        _turns(row, "prompt") if _is_turns(asked) else [Message("user", _words(row, "prompt"))]
    )
    answer = (
        _turns(row, "completion")
        if _is_turns(answered)
        else [Message("assistant", _words(row, "completion"))]
    )
    return [*question, *answer]


def _is_turns(value: Any) -> bool:
    return isinstance(value, list) and any(
        isinstance(turn, dict) and {"role", "content"} <= turn.keys() for turn in value
    )


def _alpaca(row: Row) -> list[Message]:
    _refuse_history(row)
    asked = _words(row, "instruction")
    extra = row.fields.get("input") or ""
    if not isinstance(extra, str):
        raise DataError(f"{row.place}: field 'input' is no text", hint="make it a string")
    if extra.strip() not in NO_INPUT:
        asked = f"{asked}\n\n{extra}"
    return [Message("user", asked), Message("assistant", _words(row, "output"))]


def _messages(row: Row) -> list[Message]:
    return _turns(row, "messages")


def _conversations(row: Row) -> list[Message]:
    return _turns(row, "conversations")


def _turns(row: Row, field: str) -> list[Message]:
    turns = row.fields[field]
    if not isinstance(turns, list) or not turns:
        raise DataError(f"{row.place}: field '{field}' is no list of turns", hint=TURN)
    return [_turn(row, turn) for turn in turns]


def _turn(row: Row, turn: Any) -> Message:
    fields = turn if isinstance(turn, dict) else {}
    # The two spellings, role + content and ShareGPT's, are found under either name of the list.
    who, said = fields.get("role", fields.get("from")), fields.get("content", fields.get("value"))
    if not isinstance(said, str) or not isinstance(who, str):
        raise DataError(f"{row.place}: a turn without its role and content as text", hint=TURN)
    if who not in ROLES:
        raise DataError(f"{row.place}: unknown role '{who}'", hint=f"known: {', '.join(ROLES)}")
    return Message(ROLES[who], said)


_READERS: tuple[tuple[str, Callable[[Row], list[Message]]], ...] = (
    ("messages", _messages),
    ("conversations", _conversations),
    ("instruction", _alpaca),
    ("prompt", _prompt_and_completion),
)


def _words(row: Row, field: str) -> str:
    """A field's text. An object becomes compact JSON with its keys in the order given."""
    value = row.fields.get(field)
    if isinstance(value, dict | list) and value:
        return _compact(row, field, value)
    if not isinstance(value, str) or not value.strip():
        what = "no answer" if field in ("completion", "output") else "nothing asked"
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


def _closed(row: Row, messages: list[Message]) -> tuple[Message, ...]:
    """A dialogue that a model can learn from: somebody asks, and it ends with the answer."""
    if messages[-1].role != "assistant" or not messages[-1].content.strip():
        raise DataError(
            f"{row.place}: no answer: the last turn is not the assistant's", hint="add it"
        )
    if all(message.role != "user" for message in messages):
        raise DataError(f"{row.place}: nothing asked: no turn is the user's", hint="add one")
    return tuple(messages)
