"""What is trained is what was meant: checked before a run spends anything.

Turns records into supervised tokens through `text`, the only place where messages become tokens,
and stops at the first record that shows a fault. Knows nothing of models or torch.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from trimtab.canonical import content_hash
from trimtab.errors import DataError
from trimtab.inference import Message
from trimtab.text.chat import ChatFormat


@dataclass(frozen=True, slots=True)
class Example:
    """One record as tokens; the loss is on those whose `mask` is true.

    `record` is its place in the list that was handed in.
    """

    record: int
    tokens: tuple[int, ...]
    mask: tuple[bool, ...]

    @property
    def answer_at(self) -> int:
        """Index of the first token that carries loss: the prompt's length."""
        return self.mask.index(True)

    @property
    def supervised(self) -> int:
        return sum(self.mask)


@dataclass(frozen=True, slots=True)
class Dropped:
    """A record that is not trained on, and why."""

    record: int
    reason: str


@dataclass(frozen=True, slots=True)
class Preflight:
    """What the run will train on: counts of tokens, and the records left out."""

    examples: tuple[Example, ...]
    dropped: tuple[Dropped, ...]

    @property
    def tokens(self) -> int:
        return sum(len(example.tokens) for example in self.examples)

    @property
    def supervised(self) -> int:
        return sum(example.supervised for example in self.examples)

    @property
    def longest(self) -> int:
        return max(len(example.tokens) for example in self.examples)

    @property
    def shared_prefix(self) -> int:
        """Tokens that every prompt begins with: the system message, most often."""
        first = min(example.tokens[: example.answer_at] for example in self.examples)
        last = max(example.tokens[: example.answer_at] for example in self.examples)
        same = (i for i, (a, b) in enumerate(zip(first, last, strict=False)) if a != b)
        return next(same, min(len(first), len(last)))

    @property
    def hash(self) -> str:
        """Identity of what is trained on: the tokens and their masks, in order."""
        return content_hash([[list(e.tokens), e.answer_at, e.supervised] for e in self.examples])

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


def preflight(chat: ChatFormat, records: Sequence[Sequence[Message]], max_length: int) -> Preflight:
    """Render every record, its system message added as serving adds it, and check it.

    A record longer than `max_length` tokens is dropped, never cut: a cut answer teaches the model
    not to stop. Raises DataError where nothing is left, and where a render cannot be trusted.
    """
    stops = set(chat.stop_tokens())
    examples: list[Example] = []
    dropped: list[Dropped] = []
    for number, record in enumerate(records):
        messages = chat.messages_of(record)
        example = _render(chat, messages, number)
        _check(chat, messages, example, stops)
        if len(example.tokens) > max_length:
            reason = f"{len(example.tokens)} tokens, more than train.max_length {max_length}"
            dropped.append(Dropped(number, reason))
        else:
            examples.append(example)
    if not examples:
        raise DataError(
            f"no record is left to train on: {len(dropped)} of {len(records)} are longer than "
            f"{max_length} tokens"
            if dropped
            else "there is no record to train on",
            hint="raise train.max_length" if dropped else "add records to data.sources",
        )
    return Preflight(tuple(examples), tuple(dropped))


def _render(chat: ChatFormat, messages: Sequence[Message], number: int) -> Example:
    try:
        rendered = chat.supervised(messages)
    except DataError as error:
        raise DataError(f"training record {number}: {error.message}", hint=error.hint) from None
    return Example(number, rendered.tokens, rendered.mask)


def _check(
    chat: ChatFormat, messages: Sequence[Message], example: Example, stops: set[int]
) -> None:
    where = f"training record {example.record}"
    if not any(example.mask):
        raise DataError(
            f"{where}: no token carries loss", hint="the last message must be an answer with text"
        )
    answer = [token for token, taught in zip(example.tokens, example.mask, strict=True) if taught]
    if answer[-1] not in stops:
        raise DataError(
            f"{where}: the answer does not end in a stop token, so the model would never stop",
            hint="the chat template must close the assistant's turn with its end-of-turn token",
        )
    if example.tokens[: example.answer_at] != chat.prompt_tokens(messages[:-1]):
        raise DataError(
            f"{where}: the prompt is rendered otherwise when served than when trained",
            hint="use a chat template whose prompt is a prefix of the whole dialogue",
        )
