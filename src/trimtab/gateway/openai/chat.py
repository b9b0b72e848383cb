"""How a dialogue's answers and their pieces look to a client of OpenAI's API; knows no route."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from trimtab.gateway.bodies import Choice
from trimtab.gateway.generation import Generation
from trimtab.gateway.offer import Offer
from trimtab.gateway.openai.bodies import (
    AnswerMessage,
    ChatAnswer,
    ChatChoice,
    ChatChunk,
    ChatLogprobs,
    Delta,
    DeltaChoice,
    Envelope,
)
from trimtab.gateway.openai.dialogue import AnswerCall, DeltaCall
from trimtab.gateway.openai.envelope import Mold, around, bare, closing, end_of
from trimtab.gateway.visit import Visit
from trimtab.text.tool_calls import Listener

# What the first piece of a dialogue's answer has beside its text.
_OPENING = b',"role":"assistant"'


@dataclass(slots=True)
class Told:
    """How far one answer of a dialogue was told; `reading` keeps back what may be a call."""

    reading: Listener | None
    first: bool = True
    mold: Mold | None = None


class Chat:
    """How a dialogue's answers and their pieces look; of an `offer`, with the calls of tools."""

    route = "chat.completions"

    def __init__(self, offer: Offer | None = None) -> None:
        self._offer = offer
        self._told: dict[int, Told] = {}

    def whole(self, visit: Visit, work: Generation) -> Envelope:
        choices = [self._choice(visit.id, choice) for choice in work.choices]
        return ChatAnswer(**around(visit, "chat.completion"), choices=choices)

    def _choice(self, id: str, choice: Choice) -> ChatChoice:
        spoken: str | None = choice.text
        calls: list[AnswerCall] | None = None
        if self._offer is not None:
            spoken, calls = self._offer.read(choice.text, _id_of(id, choice))
        return ChatChoice(
            index=choice.index,
            message=AnswerMessage(content=spoken, tool_calls=calls),
            finish_reason=_reason(choice, calls),
            logprobs=self._logprobs(choice),
        )

    def piece(self, visit: Visit, text: str, index: int) -> bytes | None:
        """What goes out for a piece of text; a part of a call waits for its end."""
        told = self._of(index)
        said = text if told.reading is None else told.reading.push(text)
        if not said:
            return None
        if told.mold is None:
            marked = DeltaChoice(index=index, delta=Delta(content=Mold.MARK))
            told.mold = Mold(self._chunk(visit, [marked]))
        opening = _OPENING if told.first else b""
        told.first = False
        return told.mold.event(said, opening)

    def end(self, visit: Visit, work: Generation) -> list[Envelope]:
        """What is left of every answer, and why it ended, with the log-probabilities of all its
        tokens, where they are wanted.
        """
        ends = [chunk for choice in work.choices for chunk in self._end(visit, choice)]
        return [*ends[:-1], closing(ends[-1], visit)]

    def _end(self, visit: Visit, choice: Choice) -> list[Envelope]:
        rest: str | None = None
        calls: list[DeltaCall] | None = None
        reading = self._of(choice.index).reading
        if self._offer is not None and reading is not None:
            rest, calls = self._offer.rest(reading, choice.text, _id_of(visit.id, choice))
        more = [Delta(content=rest)] if rest else []
        more += [Delta(tool_calls=[call]) for call in calls or ()]
        last = DeltaChoice(
            index=choice.index,
            delta=Delta(),
            finish_reason=_reason(choice, calls),
            logprobs=self._logprobs(choice),
        )
        return [
            *(self._delta(visit, choice.index, delta) for delta in more),
            self._chunk(visit, [last]),
        ]

    def _of(self, index: int) -> Told:
        if (told := self._told.get(index)) is None:
            listener = None if self._offer is None else self._offer.listener()
            told = self._told[index] = Told(listener)
        return told

    def _delta(self, visit: Visit, index: int, delta: Delta) -> Envelope:
        told = self._of(index)
        if told.first:
            delta.role, told.first = "assistant", False
        return self._chunk(visit, [DeltaChoice(index=index, delta=delta)])

    @staticmethod
    def _logprobs(choice: Choice) -> ChatLogprobs | None:
        return None if choice.logprobs is None else ChatLogprobs(content=choice.logprobs)

    def usage(self, visit: Visit) -> Envelope:
        return ChatChunk(**around(visit, "chat.completion.chunk"), choices=[])

    def _chunk(self, visit: Visit, choices: list[DeltaChoice]) -> Envelope:
        return ChatChunk(**bare(visit, "chat.completion.chunk"), choices=choices)


def _id_of(request: str, choice: Choice) -> str:
    """What the calls in one of several answers are named after."""
    return f"{request}.{choice.index}" if choice.index else request


def _reason(
    choice: Choice, calls: Sequence[AnswerCall] | None
) -> Literal["stop", "length", "tool_calls"]:
    return "tool_calls" if calls else end_of(choice)
