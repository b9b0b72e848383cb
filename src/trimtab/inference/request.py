"""What is asked of a model, and how its answer is to be drawn. Prompts are token ids."""

from dataclasses import dataclass
from typing import Literal

Priority = Literal["interactive", "batch", "shadow"]


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
