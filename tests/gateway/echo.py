"""A small engine of its own kind: it answers with words it was given, and fails where it is told.

For what a real engine will not do on demand: hang, die in the middle, count what is closed.
"""

import asyncio
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field

from trimtab.errors import EngineUnavailable, VersionNotLoaded
from trimtab.inference import (
    Capabilities,
    Chunk,
    GenerateRequest,
    Runtime,
    Score,
    ScoreRequest,
    Usage,
    VersionFiles,
)

RUNTIME = Runtime("echo", "1", "cpu", "float32")


@dataclass
class Echo:
    """One word a token. `die_after` counts tokens; `pause_s` goes before each of them."""

    word: str = "yes "
    words: int = 5
    pause_s: float = 0.0
    die_after: int | None = None
    context: int = 256
    loaded: set[str] = field(default_factory=set)
    running: int = 0
    asked: list[GenerateRequest | ScoreRequest] = field(default_factory=list)

    async def capabilities(self) -> Capabilities:
        return Capabilities(RUNTIME, self.context, max_batch=1, methods={"lora": "mixed"})

    async def load(self, files: VersionFiles) -> None:
        self.loaded.add(files.version)

    async def unload(self, version: str) -> None:
        self.loaded.discard(version)

    async def generate(self, request: GenerateRequest) -> AsyncGenerator[Chunk, None]:
        self._take(request)
        self.running += 1
        try:
            tokens = min(self.words, request.sampling.max_tokens)
            for number in range(tokens):
                if number == self.die_after:
                    raise EngineUnavailable("/run/engine.sock: gone")
                await asyncio.sleep(self.pause_s)
                yield Chunk(self.word, (number,), (-0.5,))
            reason = "stop" if tokens == self.words else "length"
            yield Chunk("", (), (), reason, Usage(len(request.prompt), tokens))
        finally:
            self.running -= 1

    async def score(self, request: ScoreRequest) -> list[Score]:
        self._take(request)
        if self.die_after is not None:
            raise EngineUnavailable("/run/engine.sock: gone")
        return [Score((-0.25,) * len(tokens)) for tokens in request.completions]

    def _take(self, request: GenerateRequest | ScoreRequest) -> None:
        if request.version not in self.loaded:
            raise VersionNotLoaded(f"{request.version} is not loaded")
        self.asked.append(request)
