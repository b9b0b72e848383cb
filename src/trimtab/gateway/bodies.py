"""What requests and answers look like on the wire.

Knows shapes and bounds alone; whether a prompt fits a model is found out later.
"""

import json
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    field_validator,
    model_validator,
)

from trimtab.canonical import canonical_json

# Ids are echoed and logged: short, printable, and without anything a header could be split by.
Id = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9._:@/-]{1,128}$")]
# What people read and databases store: control characters are neither text nor, for NUL, storable.
PRINTABLE = r"^[^\x00-\x1f\x7f]*$"


def _whole(text: str) -> str:
    """JSON can spell half of a surrogate pair, and that is no text in any encoding."""
    if not text.isascii() and any("\ud800" <= character <= "\udfff" for character in text):
        raise ValueError("holds half of a surrogate pair")
    return text


def plain(value: dict[str, Any]) -> dict[str, Any]:
    """Python's reader takes more for JSON than JSON is."""
    try:
        canonical_json(value)
    except (ValueError, RecursionError) as error:
        raise ValueError("is no plain JSON object") from error
    return value


def _absent(value: object) -> bool:
    return value is None


Text = Annotated[str, AfterValidator(_whole)]
PlainObject = Annotated[dict[str, Any], AfterValidator(plain)]
Label = Annotated[str, StringConstraints(pattern=PRINTABLE), AfterValidator(_whole)]
Name = Annotated[Label, StringConstraints(min_length=1, max_length=128)]
Stop = Annotated[str, StringConstraints(min_length=1, max_length=1024), AfterValidator(_whole)]
StopTokens = Annotated[list[Annotated[int, Field(ge=0)]], Field(max_length=32)]
Share = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
Penalty = Annotated[float, Field(ge=-2, le=2, allow_inf_nan=False)]
Repetition = Annotated[float, Field(gt=0, le=10, allow_inf_nan=False)]
Likeliest = Annotated[int, Field(ge=0, le=20)]
Choices = Annotated[int, Field(ge=1, le=8)]
Scored = Annotated[str, StringConstraints(min_length=1), AfterValidator(_whole)]


class Body(BaseModel):
    """Strict: an unknown field or a number in quotes is a mistake that the caller hears of."""

    model_config = ConfigDict(extra="forbid", strict=True)


class Turn(Body):
    role: Literal["system", "user", "assistant"]
    content: Text


class Asked(Body):
    """What generate and score share: the model, the words, and the contract's three ids."""

    model: Name
    prompt: Text | None = None
    messages: Annotated[list[Turn], Field(min_length=1)] | None = None
    trace_id: Id | None = None
    session_id: Id | None = None
    user_id: Id | None = None

    @model_validator(mode="after")
    def _prompt_or_messages(self) -> Self:
        if (self.prompt is None) == (self.messages is None):
            raise ValueError("give either prompt or messages")
        return self


class GenerateBody(Asked):
    """Without `max_tokens` the version's own default holds, cut to what the context leaves.

    `logprobs` are told of the answer's tokens, and of the `top_logprobs` likeliest in each place.
    An answer that ends by `stop` satisfies the `json_schema`. `n` answers to one prompt are drawn
    with the seeds `seed`, `seed` + 1, and so on. `deterministic` answers are the same to the last
    bit whatever else the engine computes. `fallback` false refuses a lower tier's answer: the best
    one answers, or there is an error.
    """

    max_tokens: Annotated[int, Field(ge=1, le=1_000_000)] | None = None
    temperature: Annotated[float, Field(ge=0, le=10, allow_inf_nan=False)] = 0.0
    top_p: Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)] = 1.0
    top_k: Annotated[int, Field(ge=0, le=1_000_000)] = 0
    seed: Annotated[int, Field(ge=0, lt=2**63)] | None = None
    stop: Annotated[list[Stop], Field(max_length=8)] = []
    min_p: Share = 0.0
    repetition_penalty: Repetition = 1.0
    presence_penalty: Penalty = 0.0
    frequency_penalty: Penalty = 0.0
    stop_token_ids: StopTokens = []
    logprobs: bool = False
    top_logprobs: Likeliest = 0
    json_schema: PlainObject | None = None
    deterministic: bool = False
    n: Choices = 1
    stream: bool = False
    fallback: bool = True

    @field_validator("stop", mode="before")
    @classmethod
    def _one_or_many(cls, stop: object) -> object:
        return [stop] if isinstance(stop, str) else stop

    @model_validator(mode="after")
    def _together(self) -> Self:
        if self.top_logprobs and not self.logprobs:
            raise ValueError("top_logprobs go with logprobs: true")
        if self.json_schema is not None and (self.stop or self.stop_token_ids):
            raise ValueError("an answer under a schema ends where the schema does: leave out stop")
        return self

    @property
    def schema_text(self) -> str | None:
        """As JSON; the order of its properties is the order in which they are written."""
        return None if self.json_schema is None else json.dumps(self.json_schema)


class Continued(GenerateBody):
    """A prompt that goes to the model as it is, without a template."""


class ScoreBody(Asked):
    completions: Annotated[list[Scored], Field(min_length=1, max_length=64)]


class UsageBody(BaseModel):
    """Tokens; `cached` ones of the prompt were not computed again."""

    prompt: int
    completion: int
    cached: int


class AnswerBody(BaseModel):
    """Who really answered, how long it took and what it cost. Every answer carries it.

    The safe template is no version and has no runtime.
    """

    id: str
    trace_id: str
    session_id: str | None
    user_id: str | None
    model: str
    model_version: str | None
    runtime: str | None
    tier: Literal["adapter", "base", "safe_template"]
    degraded: bool = False
    degraded_reason: str | None = None
    latency_ms: float
    tokens_used: int
    usage: UsageBody
    cost_usd: float


class Alternative(BaseModel):
    """A token by its text and its bytes, of which half a character's may be the whole, and its
    natural log-probability in the model's raw distribution."""

    token: str
    bytes: list[int]
    logprob: float


class TokenLogprob(Alternative):
    top_logprobs: list[Alternative]


class Choice(BaseModel):
    """One of several answers to one prompt."""

    index: int
    text: str
    finish_reason: Literal["stop", "length", "cancelled"]
    logprobs: list[TokenLogprob] | None = Field(default=None, exclude_if=_absent)


class GenerateAnswer(AnswerBody):
    """`text`, `finish_reason` and `logprobs` are the first answer's; `choices` has all, where `n`
    asked for more than one."""

    text: str
    finish_reason: Literal["stop", "length", "cancelled"]
    logprobs: list[TokenLogprob] | None = Field(default=None, exclude_if=_absent)
    choices: list[Choice] | None = Field(default=None, exclude_if=_absent)


class Token(BaseModel):
    """An event of a stream: a piece of the answer, never empty. `index` says of which, where `n`
    asked for more than one."""

    text: str
    index: int | None = Field(default=None, exclude_if=_absent)


class Done(GenerateAnswer):
    """The last event of a stream. Times are milliseconds from admission on."""

    ttft_ms: float | None


class CompletionScore(BaseModel):
    """Natural logarithms under the model's raw distribution."""

    log_probability: float
    token_log_probabilities: list[float]
    tokens: int


class ScoreAnswer(AnswerBody):
    scores: list[CompletionScore]


class PriceBody(BaseModel):
    prompt_usd_per_million_tokens: float
    completion_usd_per_million_tokens: float
    cached_usd_per_million_tokens: float


class CapabilitiesBody(BaseModel):
    """What the engine of a model can do, as it says itself.

    `methods` are those whose versions it serves: mixed in one batch, or alone. `lora_mixed`: many
    LoRA adapters share a batch; `lora_hot`: they come and go while it serves. `kernels`: what
    computes a step, `avx2`, `triton` or `torch` say, where the engine tells it.
    """

    generate: bool = True
    score: bool = True
    lora_mixed: bool
    lora_hot: bool
    prefix_cache: bool
    priority: bool
    grammar: bool
    kernels: str | None
    methods: dict[str, Literal["mixed", "alone"]]


class ModelBody(BaseModel):
    """A deployment: what is live, what waits, what it costs and can do.

    `context` (tokens) and `capabilities` are null while the engine cannot be reached; the price
    is null where none is set, and then the model cannot be asked.
    """

    name: str
    live: str
    candidate: str | None
    base: str
    adapters: list[str]
    context: int | None
    price: PriceBody | None
    capabilities: CapabilitiesBody | None


class EncoderBody(BaseModel):
    """What makes embeddings: numbers in a vector, tokens that a text may have, and the price."""

    name: str
    hash: str
    dimensions: int
    context: int
    price: PriceBody | None


class ModelCard(BaseModel):
    """A deployment or an encoder as OpenAI's clients know a model."""

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str


class ModelList(BaseModel):
    """Everything twice: as Trimtab describes it, and in `data` as OpenAI's clients read it."""

    object: Literal["list"] = "list"
    data: list[ModelCard]
    models: list[ModelBody]
    encoders: list[EncoderBody]
