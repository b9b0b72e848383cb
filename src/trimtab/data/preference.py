"""Rows with two answers, of which one was preferred: `chosen` and `rejected`.

Beside a prompt (a text, turns, or Alpaca's or ShareGPT's fields) they are answers; alone they are
two dialogues that part at their last turn, as turns or in the wording of HH-RLHF
(https://huggingface.co/datasets/Anthropic/hh-rlhf).
"""

import re
from typing import Any

from trimtab.data.sources import Row
from trimtab.data.turns import TURN, is_turns, turn, turns, words
from trimtab.errors import DataError
from trimtab.inference import Message

_SPEAKER = re.compile(r"\n\n(Human|Assistant):[ ]?")
_SPEAKERS = {"Human": "user", "Assistant": "assistant"}


def has_pair(row: Row) -> bool:
    """Whether a row is a preference pair; beside messages the two are somebody's notes."""
    return "messages" not in row.fields and {"chosen", "rejected"} <= row.fields.keys()


def answers(row: Row) -> tuple[str, str]:
    """The chosen and the rejected answer of a row that has its prompt in other fields."""
    return _answer(row, "chosen"), _answer(row, "rejected")


def dialogue(row: Row) -> tuple[list[Message], str]:
    """The dialogue that ends in the chosen answer, and the rejected one; the row has no prompt.

    Raises DataError where the two part before their last turn: then they answer two questions.
    """
    chosen, rejected = _dialogue(row, "chosen"), _dialogue(row, "rejected")
    if chosen[:-1] != rejected[:-1]:
        raise DataError(
            f"{row.place}: 'chosen' and 'rejected' part before their last turn",
            hint="a preference is between two answers to the same prompt",
        )
    return chosen, rejected[-1].content


def _answer(row: Row, field: str) -> str:
    value = row.fields[field]
    found: Any = value
    if isinstance(value, dict) and ({"role", "content"} <= value.keys() or "value" in value):
        found = [value]
    if not is_turns(found) and not (isinstance(value, dict) and "value" in value):
        return words(row, field)
    [*before, last] = [turn(row, each) for each in found]
    if before or last.role != "assistant" or not last.content.strip():
        raise DataError(
            f"{row.place}: no answer: field '{field}' is not one turn of the assistant's",
            hint="leave the turns of the prompt to the field 'prompt'",
        )
    return last.content


def _dialogue(row: Row, field: str) -> list[Message]:
    found = _spoken(row, field) if isinstance(row.fields[field], str) else turns(row, field)
    if found[-1].role != "assistant" or not found[-1].content.strip():
        raise DataError(
            f"{row.place}: no answer: '{field}' does not end in the assistant's turn", hint="add it"
        )
    return found


def _spoken(row: Row, field: str) -> list[Message]:
    """A transcript as HH-RLHF writes it: every turn behind its speaker's name."""
    head, *pieces = _SPEAKER.split(row.fields[field])
    if head.strip() or not pieces:
        raise DataError(
            f"{row.place}: '{field}' is a text and there is no prompt beside it",
            hint=rf"add a field 'prompt', or begin with \n\nHuman: ...; or {TURN}",
        )
    pairs = zip(pieces[::2], pieces[1::2], strict=True)
    return [Message(_SPEAKERS[who], said) for who, said in pairs]
