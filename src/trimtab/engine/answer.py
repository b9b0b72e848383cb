"""One answer as it grows: token by token into chunks, until something ends it.

Knows nothing of models and batches. Text that may be the beginning of a stop string is held back
until it is certain.
"""

from collections.abc import Sequence
from dataclasses import replace

from trimtab.engine.sampling.drawn import Drawn
from trimtab.inference import Chunk, FinishReason, GenerateRequest, Usage
from trimtab.text.tokenizer import Detokenizer, Tokenizer


class Answer:
    """`finished` says whether the last chunk was given. `cached` counts prompt tokens."""

    def __init__(
        self,
        request: GenerateRequest,
        tokenizer: Tokenizer,
        stop_tokens: Sequence[int],
        cached: int = 0,
    ) -> None:
        self.finished = False
        self.tokens: list[int] = []
        self._request = request
        self._detokenizer = Detokenizer(tokenizer)
        self._stop_tokens = frozenset((*stop_tokens, *request.sampling.stop_tokens))
        self._stops = request.sampling.stop
        self._pending = ""
        self.cached = cached

    def push(self, drawn: Drawn, complete: bool = False) -> Chunk:
        """The chunk of one more token, after which nothing can follow where it is `complete`. A
        stop token counts, and adds no text.
        """
        self.tokens.append(drawn.token)
        ended = complete
        if drawn.token in self._stop_tokens:
            ended = True
        else:
            self._pending += self._detokenizer.push([drawn.token])
        full = len(self.tokens) >= self._request.sampling.max_tokens
        if ended or full:
            self._pending += self._detokenizer.flush()
        if (cut := self._first_stop()) is not None:
            return self._last(self._pending[:cut], "stop", drawn)
        if ended or full:
            return self._last(self._pending, "stop" if ended else "length", drawn)
        held = longest_overlap(self._pending, self._stops)
        text = self._pending[: len(self._pending) - held]
        self._pending = self._pending[len(text) :]
        return self._chunk(text, drawn)

    def cancel(self) -> Chunk:
        """The last chunk of an answer that nobody will see the end of."""
        self.finished = True
        return Chunk("", (), (), "cancelled", self._usage())

    def _last(self, text: str, reason: FinishReason, drawn: Drawn) -> Chunk:
        self.finished = True
        return replace(self._chunk(text, drawn), finish_reason=reason, usage=self._usage())

    def _chunk(self, text: str, drawn: Drawn) -> Chunk:
        top = (drawn.top,) if self._request.sampling.top_logprobs else ()
        return Chunk(text, (drawn.token,), (drawn.logprob,), top=top)

    def _usage(self) -> Usage:
        return Usage(len(self._request.prompt), len(self.tokens), self.cached)

    def _first_stop(self) -> int | None:
        """Where the earliest stop string begins in the text not yet given."""
        found = [at for stop in self._stops if (at := self._pending.find(stop)) >= 0]
        return min(found, default=None)


def longest_overlap(text: str, stops: Sequence[str]) -> int:
    """Characters at the end of `text` that may be the beginning of one of `stops`."""
    return max((_overlap(text, stop) for stop in stops), default=0)


def _overlap(text: str, stop: str) -> int:
    # Only where the first character stands can the rest of a long stop string begin.
    at = text.find(stop[0], max(0, len(text) - len(stop) + 1))
    while at >= 0 and not stop.startswith(text[at:]):
        at = text.find(stop[0], at + 1)
    return 0 if at < 0 else len(text) - at
