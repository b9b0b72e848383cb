"""What can be asked of a model: the `Engine` protocol and its value types.

Prompts are token ids. `text` turns messages into tokens before they come here, so nothing below
knows of messages, templates, keys or money.
"""

from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any, Literal, Protocol

from trimtab.errors import EngineError

Vector = tuple[float, ...]
FinishReason = Literal["stop", "length", "cancelled"]
Priority = Literal["interactive", "batch", "shadow"]
Service = Literal["mixed", "alone"]
"""How versions of a method are computed: mixed with others in one batch, or one version a batch."""


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a dialogue; `role` is system, user or assistant. Before all may stand one of
    the role `tools`: those that are offered, as a JSON list of what OpenAI's API calls so.
    """

    role: str
    content: str


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A call of a tool that a model asked for; `arguments` is a JSON object."""

    id: str
    name: str
    arguments: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Calling(Message):
    """A turn of the assistant that calls tools; its `content` may be empty."""

    calls: tuple[ToolCall, ...] = ()


@dataclass(frozen=True, slots=True)
class ToolResult(Message):
    """What a tool answered to the call `call_id`; its role is `tool`."""

    call_id: str = ""


def message_json(message: Message) -> list[Any]:
    """A message as plain JSON: role, content, and what beside them makes it another kind."""
    if isinstance(message, Calling):
        calls = [[call.id, call.name, dict(call.arguments)] for call in message.calls]
        return [message.role, message.content, {"calls": calls}]
    if isinstance(message, ToolResult):
        return [message.role, message.content, {"call_id": message.call_id}]
    return [message.role, message.content]


def message_of_json(value: Sequence[Any]) -> Message:
    """What `message_json` wrote."""
    role, content, *beside = value
    if not beside:
        return Message(role, content)
    if "calls" in beside[0]:
        return Calling(role, content, tuple(ToolCall(*call) for call in beside[0]["calls"]))
    return ToolResult(role, content, beside[0]["call_id"])


@dataclass(frozen=True, slots=True)
class Sampling:
    """How tokens are drawn. `temperature` 0 is greedy; `top_k` 0, `top_p` 1 and `min_p` 0 cut
    nothing; penalties of 0, and a `repetition_penalty` of 1, change nothing.

    With a `seed`, the random stream depends on the seed and the position alone. `stop_tokens` end
    an answer beside the version's own. For each token the `top_logprobs` most likely are told.
    `schema` is a JSON schema, as JSON text: an answer that ends by `stop` satisfies it.
    `deterministic` answers are the same to the last bit in whatever company they are computed.
    """

    max_tokens: int = 48
    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    seed: int | None = None
    stop: tuple[str, ...] = ()
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    stop_tokens: tuple[int, ...] = ()
    top_logprobs: int = 0
    schema: str | None = None
    deterministic: bool = False


@dataclass(frozen=True, slots=True)
class GenerateRequest:
    """`version` is a hash that was loaded; `id` is unique among the requests in flight.

    Of those that wait, the `interactive` go before `batch`, and `batch` before `shadow`. One that
    is not expected to be whole within `patience_s` is refused rather than answered too late.
    Of one that is wanted `whole`, nobody hears a part: what has come so far may come as one chunk.
    """

    version: str
    prompt: tuple[int, ...]
    sampling: Sampling
    id: str
    priority: Priority = "interactive"
    patience_s: float | None = None
    whole: bool = False


@dataclass(frozen=True, slots=True)
class ScoreRequest:
    """Log-probabilities are wanted for each of `completions` after the same `prompt`."""

    version: str
    prompt: tuple[int, ...]
    completions: tuple[tuple[int, ...], ...]
    id: str
    priority: Priority = "interactive"
    patience_s: float | None = None


@dataclass(frozen=True, slots=True)
class EmbedRequest:
    """A vector is wanted for each of `inputs`, token ids in the frame of the encoder's tokenizer.

    `encoder` is the hash of the encoder that has to answer.
    """

    encoder: str
    inputs: tuple[tuple[int, ...], ...]
    id: str
    priority: Priority = "interactive"


@dataclass(frozen=True, slots=True)
class Usage:
    """Token counts; `cached` prompt tokens were not computed again."""

    prompt: int
    completion: int
    cached: int = 0


Top = tuple[tuple[int, float], ...]
"""The most likely tokens at one place, best first, each with its log-probability."""


@dataclass(frozen=True, slots=True)
class Chunk:
    """A piece of a stream. Only the last one has a `finish_reason` and a `usage`.

    `logprobs` are natural logarithms under the model's raw distribution, one a token. So are those
    in `top`: one list a token where `top_logprobs` was asked for, else nothing.
    """

    text: str
    tokens: tuple[int, ...]
    logprobs: tuple[float, ...]
    finish_reason: FinishReason | None = None
    usage: Usage | None = None
    top: tuple[Top, ...] = ()


def joined(chunks: Sequence[Chunk]) -> Chunk:
    """Chunks that follow each other, as one."""
    if len(chunks) == 1:
        return chunks[0]
    last = chunks[-1]
    return Chunk(
        "".join([chunk.text for chunk in chunks]),
        tuple(chain.from_iterable([chunk.tokens for chunk in chunks])),
        tuple(chain.from_iterable([chunk.logprobs for chunk in chunks])),
        last.finish_reason,
        last.usage,
        tuple(chain.from_iterable([chunk.top for chunk in chunks])),
    )


@dataclass(frozen=True, slots=True)
class Completion:
    """A whole stream, gathered."""

    text: str
    tokens: tuple[int, ...]
    logprobs: tuple[float, ...]
    finish_reason: FinishReason
    usage: Usage
    top: tuple[Top, ...] = ()


@dataclass(frozen=True, slots=True)
class Score:
    """Natural log-probabilities of a given completion, one a token."""

    logprobs: tuple[float, ...]

    @property
    def total(self) -> float:
        return sum(self.logprobs)


@dataclass(frozen=True, slots=True)
class Runtime:
    """What computes a version. Reports and probes hold for a (version, runtime) pair."""

    engine: str
    version: str
    device: str
    dtype: str
    quantisation: str = "none"

    @property
    def name(self) -> str:
        return f"{self.engine}-{self.version}/{self.device}/{self.dtype}/{self.quantisation}"


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What an engine can do. `context` counts tokens.

    `methods` are those whose adapters it serves ("full": bases alone), each with how; all of them
    are loaded and unloaded while it serves. `prefix_cache`: what prompts begin with is not computed
    again. `priority`: it is heeded among those that wait. `grammar`: answers are held to a schema.
    `merged`: a float32 copy with the adapter folded in can be loaded, for verification.
    """

    runtime: Runtime
    context: int
    max_batch: int
    methods: dict[str, Service]
    prefix_cache: bool = False
    priority: bool = False
    grammar: bool = False
    merged: bool = False


NARROW_NATS, NARROW_MEAN_NATS = 0.5, 0.1
"""What a single token may be off, and a token on the average, where somebody computes in 8 or 16
bits: programs that are right round each in an order of its own."""


@dataclass(frozen=True, slots=True)
class Probe:
    """What was said of `completion` after `prompt` where it was known to be right: natural
    log-probabilities, one a token.
    """

    prompt: tuple[int, ...]
    completion: tuple[int, ...]
    logprobs: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Proof:
    """Golden probes that a version has to repeat before it answers; they were computed in `dtype`.
    Where all is float32, no token may be further off than `tolerance`, in nats.
    """

    tolerance: float
    probes: tuple[Probe, ...]
    dtype: str = "float32"

    def exact(self, runtime: Runtime) -> bool:
        """Whether neither side computes in fewer than 32 bits."""
        return self.dtype == runtime.dtype == "float32" and runtime.quantisation == "none"

    def allowed(self, runtime: Runtime) -> float:
        """What a single token may be off on a runtime."""
        return self.tolerance if self.exact(runtime) else max(self.tolerance, NARROW_NATS)

    def objection(self, differences: Sequence[float], runtime: Runtime) -> str:
        """What the tokens' differences, in nats, say against a version; empty where nothing."""
        worst, allowed = max(differences, default=0.0), self.allowed(runtime)
        if worst > allowed:
            return f"{worst:.2g} nat off, {allowed:.2g} allowed"
        mean = sum(differences) / max(1, len(differences))
        if mean > NARROW_MEAN_NATS:
            return f"{mean:.2g} nat off on the average, {NARROW_MEAN_NATS:.2g} allowed"
        return ""


@dataclass(frozen=True, slots=True)
class VersionFiles:
    """Where the files of a version lie. `merged` folds the adapter into a float32 copy. What is
    loaded with a `proof` answers once it has repeated it.
    """

    version: str
    base: Path
    adapter: Path | None
    tokenizer: Path
    stop_tokens: tuple[int, ...]
    merged: bool = False
    proof: Proof | None = field(default=None, compare=False)


class Engine(Protocol):
    """The face that every back-end shows. Rooms that need answers take one as an argument."""

    async def capabilities(self) -> Capabilities: ...

    async def load(self, files: VersionFiles) -> None:
        """Make a version answer; loading it again changes nothing. Raises IdentityError where it
        does not repeat its proof; it is not held then.
        """

    async def unload(self, version: str) -> None: ...

    def generate(self, request: GenerateRequest) -> AsyncGenerator[Chunk, None]:
        """Stream a completion; closing the iterator cancels the work."""

    async def score(self, request: ScoreRequest) -> list[Score]: ...

    async def embed(self, request: EmbedRequest) -> list[Vector]:
        """One vector an input. An engine of a base has none to give: RequestRefused."""


async def complete(engine: Engine, request: GenerateRequest) -> Completion:
    """Gather one stream into a completion."""
    text: list[str] = []
    tokens: list[int] = []
    logprobs: list[float] = []
    top: list[Top] = []
    async with aclosing(engine.generate(request)) as chunks:
        async for chunk in chunks:
            text.append(chunk.text)
            tokens += chunk.tokens
            logprobs += chunk.logprobs
            top += chunk.top
            if chunk.finish_reason is not None and chunk.usage is not None:
                return Completion(
                    "".join(text),
                    tuple(tokens),
                    tuple(logprobs),
                    chunk.finish_reason,
                    chunk.usage,
                    tuple(top),
                )
    raise EngineError(f"request {request.id}: the stream ended without a finish reason")
