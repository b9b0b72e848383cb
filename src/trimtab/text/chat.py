"""Messages to tokens, for serving and for training alike, so that the two cannot differ.

Knows nothing of models or records.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trimtab.errors import DataError
from trimtab.inference import Calling, Message, ToolResult
from trimtab.text.template import ChatTemplate
from trimtab.text.tokenizer import Tokenizer

NO_TOOLS = "use a base that was taught to call tools, or set data.template"


def offers(messages: Sequence[Message]) -> bool:
    """Whether a dialogue begins with the tools that are offered."""
    return bool(messages) and messages[0].role == "tools"


def answered(messages: Sequence[Message]) -> list[int]:
    """Where the assistant answers a user: a greeting that opens a dialogue answers nobody."""
    roles = [message.role for message in messages]
    return [at for at, role in enumerate(roles) if role == "assistant" and "user" in roles[:at]]


@dataclass(frozen=True, slots=True)
class Supervised:
    """A whole dialogue as tokens; `mask`, of the same length, is true where loss is taken."""

    tokens: tuple[int, ...]
    mask: tuple[bool, ...]


class ChatFormat:
    """A tokenizer, a template and the system message of a project: how a version is spoken to."""

    def __init__(self, tokenizer: Tokenizer, template: ChatTemplate, system: str = "") -> None:
        self.tokenizer = tokenizer
        self.template = template
        self.system = system
        self._stop_tokens, self._behind = self._learn_ending()

    @classmethod
    def from_folder(
        cls, folder: Path, system: str = "", *, source: str | None = None
    ) -> "ChatFormat":
        """The format that a model's folder declares; a `source` replaces the folder's template."""
        return cls(Tokenizer(folder), ChatTemplate.from_folder(folder, source), system)

    def messages_of(self, prompt: str | Sequence[Message]) -> tuple[Message, ...]:
        """The prompt as messages, opened by the system message unless it brings its own."""
        given = (Message("user", prompt),) if isinstance(prompt, str) else tuple(prompt)
        head, turns = (given[:1], given[1:]) if offers(given) else ((), given)
        if self.system and (not turns or turns[0].role != "system"):
            return (*head, Message("system", self.system), *turns)
        return given

    def prompt_tokens(
        self,
        messages: Sequence[Message],
        tools: Sequence[Mapping[str, Any]] = (),
        opening: str = "",
    ) -> tuple[int, ...]:
        """What the model is asked: the dialogue and the opening of the assistant's turn.

        Renders the messages as they are; `messages_of` is what adds the system message. `tools` are
        those that the messages do not offer themselves. An `opening` puts the first words into the
        assistant's mouth. Raises DataError where the template would drop a tool or a call.
        """
        rendered = self._render(messages, tools, add_generation_prompt=True)
        return tuple(self.tokenizer.encode(rendered + opening))

    def _render(
        self,
        messages: Sequence[Message],
        tools: Sequence[Mapping[str, Any]] = (),
        add_generation_prompt: bool = False,
    ) -> str:
        if offers(messages):
            tools, messages = json.loads(messages[0].content), messages[1:]
            if not self.template.knows_tools:
                raise DataError("the chat template writes no tools down", hint=NO_TOOLS)
            called = any(isinstance(message, Calling | ToolResult) for message in messages)
            if called and not self.template.knows_calls:
                raise DataError("the chat template writes no calls of tools down", hint=NO_TOOLS)
        return self.template.render(messages, add_generation_prompt, tools)

    def supervised(self, messages: Sequence[Message], *, every: bool = False) -> Supervised:
        """The dialogue with loss on its last message, which must be the assistant's; with `every`
        on each answer to a user.

        The end-of-turn token carries loss, what the template writes behind it does not. Raises
        DataError where an answer's prompt is not the beginning of the whole dialogue: then the
        model would be trained on another prompt than it is served with.
        """
        whole = self._ended(messages)
        if not every:
            return whole
        mask = list(whole.mask)
        for number, at in enumerate(answered(messages)[:-1], start=1):
            sooner = self._ended(messages[: at + 1])
            end = len(sooner.mask) - sooner.mask[::-1].index(True)
            if whole.tokens[:end] != sooner.tokens[:end]:
                raise DataError(
                    f"answer {number}: the chat template writes it otherwise once the dialogue "
                    "goes on",
                    hint="set train.turns to last, or use a template that keeps its answers",
                )
            mask[:end] = [a or b for a, b in zip(mask, sooner.mask[:end], strict=False)]
        return Supervised(whole.tokens, tuple(mask))

    def _ended(self, messages: Sequence[Message]) -> Supervised:
        """The dialogue with loss on its last message alone."""
        if len(messages) < 2 or messages[-1].role != "assistant":
            raise DataError(
                "the dialogue does not end in an answer",
                hint="the last message must be the assistant's, behind at least one other",
            )
        tokens = tuple(self.tokenizer.encode(self._render(messages)))
        prompt = self.prompt_tokens(messages[:-1])
        if tokens[: len(prompt)] != prompt:
            raise DataError(
                "the chat template renders a prompt that is no prefix of the answered dialogue",
                hint="use a template that renders a prompt alike with an answer and without",
            )
        end = self._end_of_answer(tokens, len(prompt))
        return Supervised(tokens, tuple(len(prompt) <= i <= end for i in range(len(tokens))))

    def stop_tokens(self) -> tuple[int, ...]:
        """Ids that end an answer, ascending: end of text, and the template's end of turn."""
        return self._stop_tokens

    def _learn_ending(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """The stop tokens, and what the template writes behind an answer's stop token.

        Learnt from a dialogue of two words, since a template does not declare them.
        """
        question = [Message("user", "a")]
        rendered = self.template.render([*question, Message("assistant", "b")])
        tail = self.tokenizer.encode(rendered)[len(self.prompt_tokens(question)) :]
        ends = [i for i, token in enumerate(tail) if self.tokenizer.is_special(token)]
        eos = self.tokenizer.id_of(self.tokenizer.eos_token or "")
        stops = {tail[i] for i in ends[:1]} | ({eos} if eos is not None else set())
        return tuple(sorted(stops)), tuple(tail[ends[0] + 1 :]) if ends else ()

    def _end_of_answer(self, tokens: tuple[int, ...], start: int) -> int:
        """Index of the token that closes the answer that starts at `start`."""
        stops = [i for i in range(start, len(tokens)) if tokens[i] in self._stop_tokens]
        if not stops:
            raise DataError(
                "the chat template does not close the assistant's turn with a stop token",
                hint="without one the model would never learn to stop: use another template",
            )
        if tokens[stops[0] + 1 :] != self._behind:
            raise DataError(
                "a stop token stands inside the answer",
                hint="take the model's control tokens out of the record",
            )
        return stops[0]
