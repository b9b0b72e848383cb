"""An engine that counts what is asked of it, by version: what a loop's own questions cost."""

from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import aclosing, contextmanager
from dataclasses import dataclass, field

from trimtab.flows.standing import Standing
from trimtab.inference import Chunk, Engine, GenerateRequest, Score, ScoreRequest, Usage


@dataclass
class Meter:
    """Tokens of prompts and completions by version."""

    used: dict[str, Usage] = field(default_factory=dict)
    _tell: Callable[[str, Usage], None] | None = None

    def add(self, version: str, prompt: int, completion: int, cached: int = 0) -> None:
        before = self.used.get(version, Usage(0, 0))
        self.used[version] = Usage(
            before.prompt + prompt, before.completion + completion, before.cached + cached
        )
        if self._tell is not None:
            self._tell(version, Usage(prompt, completion, cached))

    @contextmanager
    def telling(self, tell: Callable[[str, Usage], None]) -> Iterator[None]:
        """Count anew until the end, and tell of each question."""
        self.used, self._tell = {}, tell
        try:
            yield
        finally:
            self.used, self._tell = {}, None


class Metered(Standing):
    """The same engine; a stream that is left is counted as far as it came, a score as a gateway
    counts it."""

    def __init__(self, engine: Engine, meter: Meter) -> None:
        self._engine = engine
        self._meter = meter

    @property
    def behind(self) -> Engine:
        return self._engine

    async def generate(self, request: GenerateRequest) -> AsyncGenerator[Chunk, None]:
        usage = Usage(len(request.prompt), 0)
        try:
            async with aclosing(self._engine.generate(request)) as chunks:
                async for chunk in chunks:
                    said = usage.completion + len(chunk.tokens)
                    usage = chunk.usage or Usage(usage.prompt, said)
                    yield chunk
        finally:
            if usage.completion:
                self._meter.add(request.version, usage.prompt, usage.completion, usage.cached)

    async def score(self, request: ScoreRequest) -> list[Score]:
        scores = await self._engine.score(request)
        completion = sum(map(len, request.completions))
        self._meter.add(request.version, len(request.prompt), completion)
        return scores
