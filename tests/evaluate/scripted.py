"""An engine that answers by rules written down in the test, where a model would answer anything."""

import asyncio
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass, field

from trimtab.errors import RequestRefused, VersionNotLoaded
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
from trimtab.text.tokenizer import Tokenizer

Rule = Callable[[str], str]


@dataclass
class Scripted:
    """`rules` map a version to prompt text -> answer, `logprobs` to the value of every token."""

    tokenizer: Tokenizer
    rules: dict[str, Rule]
    logprobs: dict[str, float] = field(default_factory=dict)
    max_batch: int = 4
    asked: int = 0
    busy: int = 0
    busiest: int = 0

    async def capabilities(self) -> Capabilities:
        return Capabilities(Runtime("scripted", "1", "cpu", "float32"), 4096, self.max_batch, {})

    async def load(self, files: VersionFiles) -> None:
        raise AssertionError("a suite is handed versions that are loaded")

    async def unload(self, version: str) -> None:
        raise AssertionError("a suite unloads nothing")

    async def generate(self, request: GenerateRequest) -> AsyncGenerator[Chunk, None]:
        answer = self._rule(request.version)(self.tokenizer.decode(request.prompt, True))
        self.asked += 1
        self.busy += 1
        self.busiest = max(self.busiest, self.busy)
        await asyncio.sleep(0)
        self.busy -= 1
        tokens = tuple(self.tokenizer.encode(answer))
        usage = Usage(len(request.prompt), len(tokens))
        yield Chunk(answer, tokens, (-0.5,) * len(tokens), "stop", usage)

    async def score(self, request: ScoreRequest) -> list[Score]:
        value = self.logprobs.get(request.version, -1.0)
        return [Score((value,) * len(completion)) for completion in request.completions]

    def _rule(self, version: str) -> Rule:
        if version not in self.rules:
            raise VersionNotLoaded(f"version {version} is not loaded")
        return self.rules[version]


def refuses(*words: str) -> Rule:
    """An engine whose context does not hold prompts with these words."""

    def rule(prompt: str) -> str:
        if any(word in prompt for word in words):
            raise RequestRefused("prompt and answer are 600 tokens together, the model holds 512")
        return '{"intent": "kind0"}'

    return rule
