"""What OpenAI's clients send and read (https://platform.openai.com/docs/api-reference).

Fields that ask for what is not offered are known by name and accepted with the value that asks for
nothing, so that a client hears at once what it cannot have.
"""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, field_validator

from trimtab.gateway.bodies import Body, Continued, GenerateBody, Name, Stop, Text, Turn


class Part(Body):
    type: Literal["text"]
    text: Text


class ChatTurn(Body):
    role: Literal["system", "developer", "user", "assistant"]
    content: Text | Annotated[list[Part], Field(min_length=1)]
    name: str | None = None

    def turn(self) -> Turn:
        text = self.content
        if not isinstance(text, str):
            text = "".join(part.text for part in text)
        return Turn(role="system" if self.role == "developer" else self.role, content=text)


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

    def ours(self) -> GenerateBody:
        return GenerateBody(
            **self.sampling(),
            messages=[turn.turn() for turn in self.messages],
            max_tokens=self.max_completion_tokens or self.max_tokens,
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
    content: str
    refusal: None = None


class ChatChoice(BaseModel):
    index: int = 0
    message: AnswerMessage
    finish_reason: Literal["stop", "length"]
    logprobs: None = None


class Choice(BaseModel):
    index: int = 0
    text: str
    finish_reason: Literal["stop", "length"] | None
    logprobs: None = None


class Delta(BaseModel):
    role: Literal["assistant"] | None = None
    content: str | None = None


class DeltaChoice(BaseModel):
    index: int = 0
    delta: Delta
    finish_reason: Literal["stop", "length"] | None = None
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
