"""The `Engine` protocol: load a version, stream an answer, score, embed."""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from trimtab.errors import EngineError
from trimtab.inference.answer import Chunk, Completion, Score, Top, Vector
from trimtab.inference.proof import Proof
from trimtab.inference.request import EmbedRequest, GenerateRequest, ScoreRequest
from trimtab.inference.runtime import Capabilities


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
