"""Answers held to a JSON schema: which tokens may come next, and when nothing may.

Compiled grammars are kept by schema and tokenizer; compiling happens in a thread of its own, so
that neither the event loop nor the computing thread waits for it. What a schema can express is
`text.schema`'s.
"""

import asyncio
from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import torch

from trimtab.errors import EngineOverloaded, EngineUnavailable
from trimtab.inference import VersionFiles
from trimtab.text.schema import Vocabulary, checked, compiled, opened, refused

if TYPE_CHECKING:
    from llguidance import LLMatcher, LLTokenizer

KEPT = 64
"""Compiled grammars in memory."""
MOST_COMPILING = 8


class Grammar:
    """The place of one answer in its grammar."""

    def __init__(self, matcher: "LLMatcher") -> None:
        self._matcher = matcher

    @property
    def complete(self) -> bool:
        """Whether the answer satisfies the schema and nothing can follow."""
        return self._matcher.is_stopped() and not self._matcher.is_error()

    def allowed(self, width: int) -> torch.Tensor:
        """Which of `width` tokens may come next, as booleans.

        Raises RequestRefused where the schema turns out to be too complex at this place.
        """
        bias = torch.frombuffer(bytearray(self._matcher.compute_logit_bias()), dtype=torch.uint8)
        if self._matcher.is_error():
            raise refused(self._matcher.get_error())
        mask = torch.zeros(width, dtype=torch.bool)
        count = min(width, len(bias))
        mask[:count] = bias[:count] != 0
        return mask

    def took(self, token: int) -> None:
        self._matcher.consume_token(token)


class Grammars:
    """The grammars of an engine whose logits are `vocabulary` wide."""

    def __init__(self, vocabulary: int) -> None:
        self._vocabulary = vocabulary
        self._compiled: OrderedDict[tuple[Vocabulary, str], LLMatcher] = OrderedDict()
        self._tokenizers: dict[Vocabulary, LLTokenizer] = {}
        self._compiling = 0
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="grammar")

    async def of(self, files: VersionFiles, schema: str) -> Grammar:
        """A grammar at its beginning. Raises RequestRefused, which names what cannot be done, and
        EngineUnavailable after `close`.
        """
        file = str(files.tokenizer / "tokenizer.json")
        key = (Vocabulary(file, self._vocabulary, files.stop_tokens), schema)
        if key not in self._compiled:
            if self._compiling >= MOST_COMPILING:
                raise EngineOverloaded(
                    f"{self._compiling} schemas are being compiled already", hint="try again later"
                )
            self._compiling += 1
            try:
                self._compiled[key] = await self._in_thread(key)
            finally:
                self._compiling -= 1
            while len(self._compiled) > KEPT:
                self._compiled.popitem(last=False)
        self._compiled.move_to_end(key)
        return Grammar(self._compiled[key].deep_copy())

    async def _in_thread(self, key: tuple[Vocabulary, str]) -> "LLMatcher":
        stopping = EngineUnavailable("the engine is stopping", hint="try again in a moment")
        try:
            working = self._thread.submit(self._compile, *key)
        except RuntimeError:
            raise stopping from None
        try:
            return await asyncio.wrap_future(working)
        except asyncio.CancelledError:
            # By `close`, unless it is this task that was cancelled.
            if (task := asyncio.current_task()) is None or task.cancelling():
                raise
            raise stopping from None

    def close(self) -> None:
        self._thread.shutdown(wait=False, cancel_futures=True)

    def _compile(self, vocabulary: Vocabulary, schema: str) -> "LLMatcher":
        checked(schema, vocabulary)
        if vocabulary not in self._tokenizers:
            self._tokenizers[vocabulary] = opened(vocabulary)
        return compiled(schema, self._tokenizers[vocabulary])
