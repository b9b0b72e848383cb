"""A dialogue whose model may call tools, from OpenAI's fields to what a template is handed."""

import json
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, Field, StringConstraints, model_validator

from trimtab.gateway.bodies import Body, GenerateBody, PlainObject, Text, plain
from trimtab.gateway.problems import Problem
from trimtab.inference import Calling, Message, ToolCall, ToolResult
from trimtab.text import tool_calls
from trimtab.text.chat import ChatFormat

MOST_TOOLS = 128
CallId = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9._:-]{1,128}$")]
ToolName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_-]{1,64}$")]


def _an_object(text: str) -> str:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise ValueError("is not the text of a JSON object")
    plain(value)
    return text


class FunctionBody(Body):
    """`strict` is known and makes no difference: arguments are what the model wrote."""

    name: ToolName
    description: Text | None = None
    parameters: PlainObject | None = None
    strict: bool | None = None

    def offered(self) -> dict[str, Any]:
        told = {"name": self.name, "description": self.description, "parameters": self.parameters}
        return {name: value for name, value in told.items() if value is not None}


class ToolBody(Body):
    type: Literal["function"]
    function: FunctionBody


class CalledFunction(Body):
    """`arguments` is the text of a JSON object."""

    name: ToolName
    arguments: Annotated[Text, AfterValidator(_an_object)]


class CallBody(Body):
    """`index` is what a stream's pieces have, and says nothing here."""

    index: int | None = None
    id: CallId
    type: Literal["function"] = "function"
    function: CalledFunction

    def call(self) -> ToolCall:
        return ToolCall(self.id, self.function.name, json.loads(self.function.arguments))


class ChosenFunction(Body):
    name: ToolName


class ChosenTool(Body):
    type: Literal["function"]
    function: ChosenFunction


Chosen = Literal["none", "auto", "required"] | ChosenTool


class Part(Body):
    type: Literal["text"]
    text: Text


class ChatTurn(Body):
    """A message of any role. What their client hands back of an answer is taken as it was given."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: Text | Annotated[list[Part], Field(min_length=1)] | None = None
    name: Text | None = None
    tool_calls: Annotated[list[CallBody], Field(min_length=1, max_length=MOST_TOOLS)] | None = None
    tool_call_id: CallId | None = None
    refusal: None = None

    @model_validator(mode="after")
    def _as_its_role_has_it(self) -> Self:
        if self.tool_calls is not None and self.role != "assistant":
            raise ValueError("tool_calls are the assistant's")
        if (self.tool_call_id is not None) != (self.role == "tool"):
            raise ValueError("tool_call_id belongs to the role 'tool', and must be there")
        if self.content is None and self.tool_calls is None:
            raise ValueError("content is missing")
        return self

    def message(self) -> Message:
        text = self.content or ""
        if not isinstance(text, str):
            text = "".join(part.text for part in text)
        if self.tool_calls is not None:
            return Calling("assistant", text, tuple(call.call() for call in self.tool_calls))
        if self.tool_call_id is not None:
            return ToolResult("tool", text, self.tool_call_id)
        return Message("system" if self.role == "developer" else self.role, text)


class Dialogue(GenerateBody):
    """`turns` stand in place of prompt and messages. `choice` names a tool that must be called,
    or says that some must be ("required"), or may be ("auto")."""

    turns: tuple[Message, ...]
    tools: tuple[ToolBody, ...] = ()
    choice: str = "auto"

    @model_validator(mode="after")
    def _prompt_or_messages(self) -> Self:
        return self

    @property
    def offered(self) -> Sequence[Mapping[str, Any]]:
        return [{"type": "function", "function": tool.function.offered()} for tool in self.tools]

    @property
    def names(self) -> frozenset[str]:
        """The tools whose calls count."""
        known = frozenset(tool.function.name for tool in self.tools)
        return known if self.choice in ("auto", "required") else known & {self.choice}

    @property
    def length(self) -> int:
        """Characters, about: what it takes to tokenise them."""
        return sum(len(turn.content) for turn in self.turns) + 200 * len(self.tools)

    def opening(self, chat: ChatFormat) -> str:
        """How the answer has to begin. Raises Problem where the version's template cannot say what
        was asked."""
        if self.tools and not chat.template.knows_tools:
            raise _unknown("tools: the chat template of this model knows no tools")
        called = any(isinstance(turn, Calling | ToolResult) for turn in self.turns)
        if called and not chat.template.knows_calls:
            raise _unknown("messages: the chat template of this model knows no calls of tools")
        if not self.tools or self.choice == "auto":
            return ""
        tagged = tool_calls.OPEN in chat.template.source
        return tool_calls.opening(tagged, None if self.choice == "required" else self.choice)


class AnswerFunction(BaseModel):
    name: str
    arguments: str


class AnswerCall(BaseModel):
    id: str
    type: Literal["function"] = "function"
    function: AnswerFunction


class DeltaCall(AnswerCall):
    """A call as a piece of a stream, whole."""

    index: int


def _unknown(detail: str) -> Problem:
    return Problem(422, "invalid_request", detail)
