"""A lesson: one record as training takes it. Knows no tokens and no sources."""

from collections.abc import Sequence
from dataclasses import dataclass

from trimtab.inference import Message


@dataclass(frozen=True, slots=True)
class Lesson:
    """A dialogue that ends with the answer, which may be a call of tools that were offered.

    `rejected` is the answer that was found worse, empty where there is none; `good` says whether
    the answer was found good, None where nobody judged it.
    """

    messages: tuple[Message, ...]
    rejected: str = ""
    good: bool | None = None

    @property
    def prompt(self) -> tuple[Message, ...]:
        return self.messages[:-1]

    @property
    def answer(self) -> str:
        return self.messages[-1].content


def lessons_of(dialogues: Sequence[Sequence[Message]]) -> list[Lesson]:
    """Dialogues whose last turn is to be learnt."""
    return [Lesson(tuple(messages)) for messages in dialogues]
