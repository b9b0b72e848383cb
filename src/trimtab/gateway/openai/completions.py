"""How a continued text and its pieces look to a client of OpenAI's API; knows no route."""

from trimtab.gateway.bodies import Choice
from trimtab.gateway.generation import Generation
from trimtab.gateway.openai.bodies import (
    CompletionAnswer,
    CompletionChunk,
    Envelope,
    TextChoice,
    TextLogprobs,
)
from trimtab.gateway.openai.envelope import Mold, around, bare, closing, end_of
from trimtab.gateway.visit import Visit


class Completions:
    """How a continued text and its pieces look."""

    route = "completions"

    def __init__(self) -> None:
        self._molds: dict[int, Mold] = {}

    def whole(self, visit: Visit, work: Generation) -> Envelope:
        choices = [
            TextChoice(
                index=choice.index,
                text=choice.text,
                finish_reason=end_of(choice),
                logprobs=self._logprobs(choice),
            )
            for choice in work.choices
        ]
        return CompletionAnswer(**around(visit, "text_completion"), choices=choices)

    def piece(self, visit: Visit, text: str, index: int) -> bytes:
        if index not in self._molds:
            marked = TextChoice(index=index, text=Mold.MARK, finish_reason=None)
            self._molds[index] = Mold(self._chunk(visit, [marked]))
        return self._molds[index].event(text)

    def end(self, visit: Visit, work: Generation) -> list[Envelope]:
        ends = [self._end(visit, choice) for choice in work.choices]
        return [*ends[:-1], closing(ends[-1], visit)]

    def _end(self, visit: Visit, choice: Choice) -> Envelope:
        last = TextChoice(
            index=choice.index,
            text="",
            finish_reason=end_of(choice),
            logprobs=self._logprobs(choice),
        )
        return self._chunk(visit, [last])

    @staticmethod
    def _logprobs(choice: Choice) -> TextLogprobs | None:
        return None if choice.logprobs is None else TextLogprobs.of(choice.logprobs)

    def usage(self, visit: Visit) -> Envelope:
        return CompletionChunk(**around(visit, "text_completion"), choices=[])

    def _chunk(self, visit: Visit, choices: list[TextChoice]) -> Envelope:
        return CompletionChunk(**bare(visit, "text_completion"), choices=choices)
