"""What OpenAI's clients send and read (https://platform.openai.com/docs/api-reference).

Fields that ask for what is not offered are known by name and accepted with the value that asks for
nothing, so that a client hears at once what it cannot have.
"""

import itertools
from collections.abc import Sequence
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, Field, ValidationInfo, field_validator, model_validator

from trimtab.gateway.bodies import (
    Body,
    Choices,
    Continued,
    Label,
    Likeliest,
    Name,
    Penalty,
    PlainObject,
    Repetition,
    Share,
    Stop,
    StopTokens,
    Text,
    TokenLogprob,
)
from trimtab.gateway.openai.dialogue import (
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


class PlainFormat(Body):
    type: Literal["text", "json_object"]


class NamedSchema(Body):
    """Always held to, `strict` or not."""

    name: Annotated[str, Field(max_length=64)] = ""
    description: str | None = None
    json_schema: Annotated[PlainObject, Field(alias="schema")]
    strict: bool | None = None


class SchemaFormat(Body):
    type: Literal["json_schema"]
    json_schema: NamedSchema


ResponseFormat = Annotated[PlainFormat | SchemaFormat, Field(discriminator="type")]


def schema_of(form: PlainFormat | SchemaFormat | None) -> dict[str, Any] | None:
    """What an answer is held to; any object at all for `json_object`."""
    if isinstance(form, SchemaFormat):
        return form.json_schema.json_schema
    return {"type": "object"} if form is not None and form.type == "json_object" else None


class Common(Body):
    """Sampling as OpenAI documents it, its defaults included, and what others have added to it:
    `top_k`, `min_p`, `repetition_penalty`, `stop_token_ids` and `deterministic`.
    """

    model: Name
    temperature: Annotated[float, Field(ge=0, le=2, allow_inf_nan=False)] | None = 1.0
    top_p: Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)] | None = 1.0
    seed: Annotated[int, Field(ge=0, lt=2**63)] | None = None
    stop: Stop | Annotated[list[Stop], Field(max_length=8)] | None = None
    stream: bool | None = False
    stream_options: StreamOptions | None = None
    user: Annotated[Label, Field(max_length=128)] | None = None
    n: Choices | None = 1
    presence_penalty: Penalty | None = 0.0
    frequency_penalty: Penalty | None = 0.0
    top_k: Annotated[int, Field(ge=0, le=1_000_000)] = 0
    min_p: Share = 0.0
    repetition_penalty: Repetition = 1.0
    stop_token_ids: StopTokens = Field(default_factory=list)
    deterministic: bool = False

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
            "n": self.n or 1,
            "presence_penalty": self.presence_penalty or 0.0,
            "frequency_penalty": self.frequency_penalty or 0.0,
            "top_k": self.top_k,
            "min_p": self.min_p,
            "repetition_penalty": self.repetition_penalty,
            "stop_token_ids": self.stop_token_ids,
            "deterministic": self.deterministic,
        }


# With the defaults of every field: a copy costs a fifth of what pydantic asks to fill them in anew.
_DIALOGUE, _CONTINUED = Dialogue.model_construct(), Continued.model_construct()


class ChatBody(Common):
    messages: Annotated[list[ChatTurn], Field(min_length=1)]
    max_tokens: Annotated[int, Field(ge=1, le=1_000_000)] | None = None
    max_completion_tokens: Annotated[int, Field(ge=1, le=1_000_000)] | None = None
    response_format: ResponseFormat | None = None
    logprobs: bool | None = None
    top_logprobs: Likeliest | None = None

    tools: Annotated[list[ToolBody], Field(max_length=MOST_TOOLS)] | None = None
    tool_choice: Chosen | None = None
    parallel_tool_calls: bool | None = True

    @model_validator(mode="after")
    def _together(self) -> Self:
        if self.top_logprobs and not self.logprobs:
            raise ValueError("top_logprobs go with logprobs: true")
        if schema_of(self.response_format) is not None and (self.stop or self.stop_token_ids):
            raise ValueError("an answer under a schema ends where the schema does: leave out stop")
        if schema_of(self.response_format) is not None and self.tools:
            raise ValueError("a schema and tools do not go together: leave out one of them")
        return self

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
        # What is in it was checked here.
        return _DIALOGUE.model_copy(
            update={
                **self.sampling(),
                "turns": tuple(turn.message() for turn in self.messages),
                "max_tokens": self.max_completion_tokens or self.max_tokens,
                "tools": () if choice == "none" else tuple(self.tools or ()),
                "choice": choice.function.name if isinstance(choice, ChosenTool) else choice,
                "json_schema": schema_of(self.response_format),
                "logprobs": bool(self.logprobs),
                "top_logprobs": self.top_logprobs or 0,
            }
        )


class CompletionBody(Common):
    """16 tokens is OpenAI's default here, not the version's."""

    prompt: Text | Annotated[list[Text], Field(min_length=1, max_length=1)]
    max_tokens: Annotated[int, Field(ge=1, le=1_000_000)] | None = 16
    echo: Literal[False] | None = False
    suffix: None = None
    best_of: Literal[1] | None = 1
    logprobs: Annotated[int, Field(ge=0, le=5)] | None = None

    def ours(self) -> Continued:
        prompt = self.prompt if isinstance(self.prompt, str) else self.prompt[0]
        return _CONTINUED.model_copy(
            update={
                **self.sampling(),
                "prompt": prompt,
                "max_tokens": self.max_tokens or 16,
                "logprobs": self.logprobs is not None,
                "top_logprobs": self.logprobs or 0,
            }
        )


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


class ChatLogprobs(BaseModel):
    content: list[TokenLogprob]
    refusal: None = None


class TextLogprobs(BaseModel):
    """`text_offset` counts the characters of the tokens before."""

    tokens: list[str]
    token_logprobs: list[float]
    top_logprobs: list[dict[str, float]] | None
    text_offset: list[int]

    @classmethod
    def of(cls, told: Sequence[TokenLogprob]) -> "TextLogprobs":
        lengths = [len(one.token) for one in told]
        tops = [{each.token: each.logprob for each in one.top_logprobs} for one in told]
        return cls(
            tokens=[one.token for one in told],
            token_logprobs=[one.logprob for one in told],
            top_logprobs=tops if any(tops) else None,
            text_offset=[0, *itertools.accumulate(lengths[:-1])] if lengths else [],
        )


class ChatChoice(BaseModel):
    index: int = 0
    message: AnswerMessage
    finish_reason: Literal["stop", "length", "tool_calls"]
    logprobs: ChatLogprobs | None = None


class TextChoice(BaseModel):
    index: int = 0
    text: str
    finish_reason: Literal["stop", "length"] | None
    logprobs: TextLogprobs | None = None


class Delta(BaseModel):
    role: Literal["assistant"] | None = None
    content: str | None = None
    tool_calls: list[DeltaCall] | None = None


class DeltaChoice(BaseModel):
    index: int = 0
    delta: Delta
    finish_reason: Literal["stop", "length", "tool_calls"] | None = None
    logprobs: ChatLogprobs | None = None


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
    choices: list[TextChoice]


class ChatChunk(Envelope):
    choices: list[DeltaChoice]


class CompletionChunk(Envelope):
    choices: list[TextChoice]
