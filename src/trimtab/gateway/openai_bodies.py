"""What OpenAI's clients send and read (https://platform.openai.com/docs/api-reference).

Fields that ask for what is not offered are known by name and accepted with the value that asks for
nothing, so that a client hears at once what it cannot have.
"""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, ValidationInfo, field_validator

from trimtab.gateway.bodies import Body, Continued, Name, Stop, Text
from trimtab.gateway.dialogue import (
    MOST_TOOLS,
    AnswerCall,
    ChatTurn,
    Chosen,
    ChosenTool,
    DeltaCall,
    Dialogue,
    ToolBody,
)


class StreamOptions(Body):
    include_usage: bool = False


class ResponseFormat(Body):
    type: Literal["text"]


class Common(Body):
    """Sampling as OpenAI documents it, its defaults included."""

    model: Name
    temperature: Annotated[float, Field(ge=0, le=2, allow_inf_nan=False)] | None = 1.0
    top_p: Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)] | None = 1.0
    seed: Annotated[int, Field(ge=0, lt=2**63)] | None = None
    stop: Stop | Annotated[list[Stop], Field(max_length=8)] | None = None
    stream: bool | None = False
    stream_options: StreamOptions | None = None
    user: Annotated[str, Field(max_length=128)] | None = None
    n: Literal[1] | None = 1
    presence_penalty: float | None = 0.0
    frequency_penalty: float | None = 0.0

    @field_validator("presence_penalty", "frequency_penalty")
    @classmethod
    def _no_penalties(cls, value: float | None) -> float | None:
        if value:
            raise ValueError("penalties are not offered here; leave it at 0")
        return value

    @property
    def include_usage(self) -> bool:
        return self.stream_options is not None and self.stream_options.include_usage

    def sampling(self) -> dict[str, Any]:
        stop = [self.stop] if isinstance(self.stop, str) else self.stop
        return {
            "model": self.model,
            "temperature": 1.0 if self.temperature is None else self.temperature,
            "top_p": 1.0 if self.top_p is None else self.top_p,
            "seed": self.seed,
            "stop": stop or [],
            "stream": bool(self.stream),
        }


class ChatBody(Common):
    messages: Annotated[list[ChatTurn], Field(min_length=1)]
    max_tokens: Annotated[int, Field(ge=1, le=1_000_000)] | None = None
    max_completion_tokens: Annotated[int, Field(ge=1, le=1_000_000)] | None = None
    response_format: ResponseFormat | None = None
    logprobs: Literal[False] | None = None
    tools: Annotated[list[ToolBody], Field(max_length=MOST_TOOLS)] | None = None
    tool_choice: Chosen | None = None
    parallel_tool_calls: bool | None = True

    @field_validator("tools")
    @classmethod
    def _each_has_a_name_of_its_own(cls, tools: list[ToolBody] | None) -> list[ToolBody] | None:
        names = [tool.function.name for tool in tools or ()]
        if len(set(names)) < len(names):
            raise ValueError("two tools have one name")
        return tools

    @field_validator("tool_choice")
    @classmethod
    def _what_is_chosen_is_offered(
        cls, chosen: Chosen | None, info: ValidationInfo
    ) -> Chosen | None:
        names = [tool.function.name for tool in info.data.get("tools") or ()]
        if isinstance(chosen, ChosenTool) and chosen.function.name not in names:
            raise ValueError(f"no tool '{chosen.function.name}' is offered")
        if chosen == "required" and not names:
            raise ValueError("no tool is offered")
        return chosen

    def ours(self) -> Dialogue:
        choice = self.tool_choice or "auto"
        return Dialogue(
            **self.sampling(),
            turns=tuple(turn.message() for turn in self.messages),
            max_tokens=self.max_completion_tokens or self.max_tokens,
            tools=() if choice == "none" else tuple(self.tools or ()),
            choice=choice.function.name if isinstance(choice, ChosenTool) else choice,
        )


class CompletionBody(Common):
    """16 tokens is OpenAI's default here, not the version's."""

    prompt: Text | Annotated[list[Text], Field(min_length=1, max_length=1)]
    max_tokens: Annotated[int, Field(ge=1, le=1_000_000)] | None = 16
    echo: Literal[False] | None = False
    suffix: None = None
    best_of: Literal[1] | None = 1
    logprobs: None = None

    def ours(self) -> Continued:
        prompt = self.prompt if isinstance(self.prompt, str) else self.prompt[0]
        return Continued(**self.sampling(), prompt=prompt, max_tokens=self.max_tokens or 16)


class CachedTokens(BaseModel):
    cached_tokens: int


class OpenAIUsage(BaseModel):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: CachedTokens


class AnswerMessage(BaseModel):
    role: Literal["assistant"] = "assistant"
    content: str | None
    refusal: None = None
    tool_calls: list[AnswerCall] | None = None


class ChatChoice(BaseModel):
    index: int = 0
    message: AnswerMessage
    finish_reason: Literal["stop", "length", "tool_calls"]
    logprobs: None = None


class Choice(BaseModel):
    index: int = 0
    text: str
    finish_reason: Literal["stop", "length"] | None
    logprobs: None = None


class Delta(BaseModel):
    role: Literal["assistant"] | None = None
    content: str | None = None
    tool_calls: list[DeltaCall] | None = None


class DeltaChoice(BaseModel):
    index: int = 0
    delta: Delta
    finish_reason: Literal["stop", "length", "tool_calls"] | None = None
    logprobs: None = None


class Envelope(BaseModel):
    """What is around every OpenAI answer; `trimtab` says who really answered, and at what cost."""

    id: str
    object: str
    created: int
    model: str
    system_fingerprint: str | None = None
    usage: OpenAIUsage | None = None
    trimtab: dict[str, Any] | None = None


class ChatAnswer(Envelope):
    choices: list[ChatChoice]


class CompletionAnswer(Envelope):
    choices: list[Choice]


class ChatChunk(Envelope):
    choices: list[DeltaChoice]


class CompletionChunk(Envelope):
    choices: list[Choice]
