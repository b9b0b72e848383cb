"""The layouts that users bring, each turned into the normal form.

Prompt and completion (as texts, or as lists of turns), Alpaca's instruction and output, messages,
ShareGPT's conversations; each may bring a `system` field, two answers in `chosen` and `rejected`
instead of one, or a `label` that judges its answer; and the `tools` that are offered, which are
called and answer in turns as OpenAI's API writes them. What a record needs depends on what is
learnt from it. A row that lacks it is an error that names its line: nothing is guessed.
"""

from collections.abc import Callable

from trimtab.data.preference import answers, dialogue, has_pair
from trimtab.data.record import Needs, Record
from trimtab.data.sources import Row
from trimtab.data.turns import is_turns, tools, turns, words
from trimtab.errors import DataError
from trimtab.inference import Calling, Message

LAYOUTS = (
    "prompt + completion, instruction (+ input) + output, messages, conversations; chosen + "
    "rejected for preferences, label beside an answer that was judged"
)
NO_INPUT = {"", "<noinput>"}
# Where TRL and LLaMA-Factory keep whether an answer was found good.
JUDGED = ("label", "kto_tag")


def record_of(row: Row, needs: Needs = "answer") -> Record:
    """The record in a row. Raises DataError with the row's place where it holds none."""
    if needs == "answer":
        _refuse_judged(row)
    if needs == "preference" and not has_pair(row):
        raise DataError(
            f"{row.place}: no preference: fields 'chosen' and 'rejected' are needed",
            hint="set train.objective to sft for records with one answer",
        )
    if has_pair(row):
        return _pair(row)
    label = _label(row) if needs == "judgement" else None
    messages = _closed(row, [*tools(row), *_system(row), *_question(row), *_answered(row)])
    return Record(messages, row.source, row.line, label=label)


def _pair(row: Row) -> Record:
    if any(mark in row.fields for mark, _ in _QUESTIONS):
        chosen, rejected = answers(row)
        said = [*_question(row), Message("assistant", chosen)]
    else:
        said, rejected = dialogue(row)
    messages = _closed(row, [*tools(row), *_system(row), *said])
    return Record(messages, row.source, row.line, rejected=rejected)


def _refuse_judged(row: Row) -> None:
    """Answers that somebody judged to be bad would be learnt as if they were good."""
    if has_pair(row):
        raise DataError(
            f"{row.place}: a preference pair, where one answer is to be learnt",
            hint="set train.objective to dpo, or rename 'chosen' to 'completion'",
        )
    for mark in JUDGED:
        # A CSV file holds the word.
        if str(row.fields.get(mark)).lower() == "false":
            raise DataError(
                f"{row.place}: its {mark} says that the answer is not to be learnt",
                hint=f"set train.objective to kto, or leave out records whose {mark} is false",
            )


def _label(row: Row) -> bool:
    for mark in JUDGED:
        word = str(row.fields.get(mark)).lower()
        if word in ("true", "false"):
            return word == "true"
    raise DataError(
        f"{row.place}: no judgement: field 'label' must be true or false",
        hint="set train.objective to sft for records that nobody judged",
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


def _question(row: Row) -> list[Message]:
    """What stands before the answer; of a whole dialogue, all of it."""
    for mark, read in _QUESTIONS:
        if mark in row.fields:
            return read(row)
    keys = ", ".join(sorted(map(str, row.fields))) or "none"
    raise DataError(f"{row.place}: unknown layout (its fields: {keys})", hint=f"known: {LAYOUTS}")


def _answered(row: Row) -> list[Message]:
    """The answer in a field of its own; nothing where the question's field is a whole dialogue."""
    for mark, _ in _QUESTIONS:
        if mark in row.fields:
            field = _ANSWER.get(mark)
            if field is None:
                return []
            if is_turns(row.fields.get(field)):
                return turns(row, field)
            return [Message("assistant", words(row, field))]
    return []


def _prompt(row: Row) -> list[Message]:
    asked = row.fields["prompt"]
    return turns(row, "prompt") if is_turns(asked) else [Message("user", words(row, "prompt"))]


def _alpaca(row: Row) -> list[Message]:
    _refuse_history(row)
    asked = words(row, "instruction")
    extra = row.fields.get("input") or ""
    if not isinstance(extra, str):
        raise DataError(f"{row.place}: field 'input' is no text", hint="make it a string")
    if extra.strip() not in NO_INPUT:
        asked = f"{asked}\n\n{extra}"
    return [Message("user", asked)]


def _messages(row: Row) -> list[Message]:
    return turns(row, "messages")


def _conversations(row: Row) -> list[Message]:
    return turns(row, "conversations")


_QUESTIONS: tuple[tuple[str, Callable[[Row], list[Message]]], ...] = (
    ("messages", _messages),
    ("conversations", _conversations),
    ("instruction", _alpaca),
    ("prompt", _prompt),
)
_ANSWER = {"instruction": "output", "prompt": "completion"}


def _closed(row: Row, messages: list[Message]) -> tuple[Message, ...]:
    """A dialogue that a model can learn from: somebody asks, and it ends with the answer."""
    last = messages[-1]
    said = last.content.strip() or (isinstance(last, Calling) and last.calls)
    if last.role != "assistant" or not said:
        raise DataError(
            f"{row.place}: no answer: the last turn is not the assistant's", hint="add it"
        )
    if all(message.role != "user" for message in messages):
        raise DataError(f"{row.place}: nothing asked: no turn is the user's", hint="add one")
    return tuple(messages)
