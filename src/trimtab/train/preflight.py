"""What is trained is what was meant: checked before a run spends anything.

Turns lessons into supervised tokens through `text`, the only place where messages become tokens,
and stops at the first record that shows a fault. Knows nothing of models or torch.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from trimtab.canonical import content_hash
from trimtab.errors import DataError
from trimtab.inference import Calling, Message
from trimtab.text.chat import ChatFormat, answered
from trimtab.train.context import WITHOUT_BOUND, Context
from trimtab.train.lesson import Lesson
from trimtab.train.objectives import SFT, Objective
from trimtab.train.rows import Answers, Example, Row, Tokens


@dataclass(frozen=True, slots=True)
class Dropped:
    """A record that is not trained on, and why."""

    record: int
    reason: str


@dataclass(frozen=True, slots=True)
class Preflight:
    """What the run will train on: counts of tokens, and the records left out."""

    examples: tuple[Row, ...]
    dropped: tuple[Dropped, ...]

    @property
    def tokens(self) -> int:
        return sum(example.size for example in self.examples)

    @property
    def supervised(self) -> int:
        return sum(example.supervised for example in self.examples)

    @property
    def longest(self) -> int:
        return max(example.longest for example in self.examples)

    @property
    def shared_prefix(self) -> int:
        """Tokens that every prompt begins with: the system message, most often."""
        first = min(example.prompt for example in self.examples)
        last = max(example.prompt for example in self.examples)
        same = (i for i, (a, b) in enumerate(zip(first, last, strict=False)) if a != b)
        return next(same, min(len(first), len(last)))

    @property
    def hash(self) -> str:
        """Identity of what is trained on: the tokens and which of them count, in order."""
        return content_hash([example.identity() for example in self.examples])

    def to_json(self) -> dict[str, Any]:
        return {
            "records": len(self.examples),
            "tokens": self.tokens,
            "supervised_tokens": self.supervised,
            "supervised_share": round(self.supervised / self.tokens, 4),
            "longest": self.longest,
            "shared_prefix": self.shared_prefix,
            "dropped": [{"record": d.record, "reason": d.reason} for d in self.dropped],
        }


def preflight(
    chat: ChatFormat,
    lessons: Sequence[Lesson],
    max_length: int,
    objective: Objective = SFT,
    context: Context = WITHOUT_BOUND,
    *,
    turns: str = "last",
) -> Preflight:
    """Render every record, its system message added as serving adds it, and check it.

    `turns` says which answers of a dialogue are learnt by SFT: "last" or "every".

    A record longer than `max_length` tokens, or than the base's context, is dropped, never cut: a
    cut answer teaches the model not to stop, and a pair whose prompt fills the length has nothing
    left to compare. Raises DataError where nothing is left, and where a render cannot be trusted.
    """
    stops = set(chat.stop_tokens())
    rows: list[Row] = []
    dropped: list[Dropped] = []
    for number, lesson in enumerate(lessons):
        try:
            made = _rows(chat, lesson, number, objective, stops, turns)
        except DataError as error:
            raise DataError(f"training record {number}: {error.message}", hint=error.hint) from None
        if reason := _too_long(made, max_length) or context.too_small(_read(made, objective)):
            dropped.append(Dropped(number, reason))
        else:
            rows += made
    if not rows:
        raise _nothing_left(dropped, max_length)
    return Preflight(tuple(rows), tuple(dropped))


def _nothing_left(dropped: Sequence[Dropped], max_length: int) -> DataError:
    if not dropped:
        return DataError("there is no record to train on", hint="add records to data.sources")
    count = len(dropped)
    if all(f"train.max_length {max_length}" in each.reason for each in dropped):
        return DataError(
            f"no record is left to train on: {count} of {count} are longer than {max_length} "
            "tokens",
            hint="raise train.max_length",
        )
    return DataError(
        f"no record is left to train on: training record {dropped[-1].record}: "
        f"{dropped[-1].reason}",
        hint="take shorter records, or a base with a longer context",
    )


def _read(rows: Sequence[Row], objective: Objective) -> int:
    """Tokens of a record that a model reads at once."""
    return max(len(row.prompt) if objective.rollouts else row.longest for row in rows)


def _too_long(rows: Sequence[Row], max_length: int) -> str:
    longest = max(row.longest for row in rows)
    if longest <= max_length:
        return ""
    limit = f"train.max_length {max_length}"
    prompt = len(rows[0].prompt)
    if prompt >= max_length:
        return f"its prompt of {prompt} tokens fills {limit}: no token of the last answer is left"
    return f"{longest} tokens, more than {limit}"


def _rows(
    chat: ChatFormat,
    lesson: Lesson,
    number: int,
    objective: Objective,
    stops: set[int],
    turns: str,
) -> list[Row]:
    """One row, or two where a preference pair is taken as a good answer and a bad one."""
    messages = chat.messages_of(lesson.messages)
    if objective.needs == "answer":
        every = turns == "every"
        rendered = chat.supervised(messages, every=every)
        example = Example(number, rendered.tokens, rendered.mask)
        _check(chat, messages, example, stops)
        for at, answer in enumerate(example.answers) if every else ():
            _must_say_something(chat, messages[answered(messages)[at]], answer)
        _must_say_something(chat, messages[-1], example.completion)
        return [example]
    if objective.needs == "preference" and not lesson.rejected.strip():
        raise DataError("has no rejected answer", hint="a preference is between two answers")
    prompt, first = _completion(chat, messages, number, stops)
    if objective.needs == "prompt":
        # Its answer is a yardstick for rewards, and nothing is learnt from it.
        return [Answers(number, prompt, (first,))]
    _must_say_something(chat, messages[-1], first)
    if not lesson.rejected:
        return [Answers(number, prompt, (first,), good=lesson.good is not False)]
    worse = (*messages[:-1], Message("assistant", lesson.rejected))
    _, second = _completion(chat, worse, number, stops)
    _must_say_something(chat, worse[-1], second)
    if first == second:
        raise DataError("chosen and rejected are the same tokens", hint="leave the record out")
    if objective.needs == "preference":
        return [Answers(number, prompt, (first, second))]
    return [Answers(number, prompt, (first,)), Answers(number, prompt, (second,), good=False)]


def _completion(
    chat: ChatFormat, messages: Sequence[Message], number: int, stops: set[int]
) -> tuple[Tokens, Tokens]:
    rendered = chat.supervised(messages)
    example = Example(number, rendered.tokens, rendered.mask)
    _check(chat, messages, example, stops)
    return example.prompt, example.completion


def _check(
    chat: ChatFormat, messages: Sequence[Message], example: Example, stops: set[int]
) -> None:
    if not any(example.mask):
        raise DataError(
            "no token carries loss", hint="the last message must be an answer with text"
        )
    if example.completion[-1] not in stops:
        raise DataError(
            "the answer does not end in a stop token, so the model would never stop",
            hint="the chat template must close the assistant's turn with its end-of-turn token",
        )
    if example.prompt != chat.prompt_tokens(messages[:-1]):
        raise DataError(
            "the prompt is rendered otherwise when served than when trained",
            hint="use a chat template whose prompt is a prefix of the whole dialogue",
        )


def _must_say_something(chat: ChatFormat, answer: Message, completion: Tokens) -> None:
    """Raises DataError for an answer of white space, and where the template drops its words."""
    said = answer.content.strip() or (isinstance(answer, Calling) and answer.calls)
    if not said or not chat.tokenizer.decode(completion).strip():
        raise DataError(
            "no token of a word carries loss: the answer is blank"
            if not said
            else "no token of a word carries loss: the chat template leaves the answer out",
            hint="leave the record out" if not said else "use another template",
        )
