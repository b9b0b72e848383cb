"""Generating an answer, or several to one prompt, for every route that offers it."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import aclosing, contextmanager
from dataclasses import dataclass, field
from typing import Any

import anyio.to_thread
from anyio import CapacityLimiter

from trimtab.errors import EngineError
from trimtab.gateway.bodies import Alternative, Choice, GenerateBody, TokenLogprob
from trimtab.gateway.catalogue import Served
from trimtab.gateway.desk import Desk, Prepared, check_fit
from trimtab.gateway.telemetry.spoken import prompt_of
from trimtab.gateway.tiers.answering import Answering
from trimtab.gateway.visit import Visit
from trimtab.inference import Chunk, FinishReason, GenerateRequest, Sampling
from trimtab.text.schema import satisfies
from trimtab.text.tokenizer import Tokenizer

Hear = Callable[[str, int], Awaitable[None]]
"""Gets a piece of text, and the index of the answer that goes on with it."""


@dataclass(slots=True)
class Told:
    """One answer as it grows."""

    text: list[str] = field(default_factory=list)
    finish_reason: FinishReason | None = None
    logprobs: list[TokenLogprob] = field(default_factory=list)


class Generation:
    """The work of a body. `text` has the whole answer; where there are several, `told` has them
    all.
    """

    def __init__(self, body: GenerateBody) -> None:
        self._body = body
        self._hear: Hear | None = None
        self.told = [Told() for _ in range(body.n)]

    @contextmanager
    def heard_by(self, hear: Hear | None) -> Iterator[None]:
        """Every piece of text is told to `hear` as it comes, from now on until the end. Kept for
        longer, each would keep the other until somebody collects garbage."""
        self._hear = hear
        try:
            yield
        finally:
            self._hear = None

    @property
    def text(self) -> str:
        return "".join(self.told[0].text)

    @property
    def choices(self) -> list[Choice]:
        """Every answer, in the order of their seeds."""
        return [
            Choice(
                index=index,
                text="".join(told.text),
                finish_reason=told.finish_reason or "stop",
                logprobs=told.logprobs if self._body.logprobs else None,
            )
            for index, told in enumerate(self.told)
        ]

    @property
    def spoken(self) -> dict[str, Any]:
        """What an answer says in its own fields, and beside them where there are several."""
        first, *others = choices = self.choices
        return {
            "text": first.text,
            "finish_reason": first.finish_reason,
            "logprobs": first.logprobs,
            "choices": choices if others else None,
        }

    def size(self, prepared: Prepared, served: Served) -> tuple[int, int]:
        """Raises Problem where prompt and answer pass the context."""
        asked, default = self._body.max_tokens, served.version.spec.defaults["max_tokens"]
        # A default is no wish: it gives way to the context, a number of the caller's does not.
        max_tokens = asked or max(1, min(default, prepared.room))
        check_fit(prepared, max_tokens, "max_tokens" if asked else "prompt")
        return max_tokens * self._body.n, self._body.n

    async def stands_in(self, text: str, threads: CapacityLimiter) -> bool:
        """Whether a safe template may answer: it must satisfy what the model would have had to.

        Raises RequestRefused for a schema that nobody can hold.
        """
        schema = self._body.schema_text
        if schema is None:
            return True
        return await anyio.to_thread.run_sync(satisfies, schema, text, limiter=threads)

    async def ask(self, prepared: Prepared, visit: Visit, started: Callable[[], None]) -> None:
        """Generate to the end, counting on the way. Raises EngineError, and what `hear` raises."""
        self.forget()
        for told in self.told:
            if prepared.opening:
                # Nobody hears it: it is a part of a call, which is told as a whole.
                told.text.append(prepared.opening)
        if self._body.n == 1:
            await self._ask_one(0, prepared, visit, started)
        else:
            await self._ask_all(prepared, visit, started)
        reasons = [told.finish_reason for told in self.told]
        if None in reasons:
            raise EngineError(f"request {visit.id}: the stream ended without a finish reason")
        visit.finish_reason = "length" if "length" in reasons else reasons[0]

    def forget(self) -> None:
        """Drop what an attempt said that nobody has seen."""
        self.told = [Told() for _ in self.told]

    async def say(self, text: str, index: int = 0) -> None:
        if text:
            self.told[index].text.append(text)
            if self._hear is not None:
                await self._hear(text, index)

    async def _ask_all(self, prepared: Prepared, visit: Visit, started: Callable[[], None]) -> None:
        """At the same time, so that the prompt is computed once. One that fails ends all."""
        asking = [
            asyncio.ensure_future(self._ask_one(index, prepared, visit, started))
            for index in range(self._body.n)
        ]
        try:
            await asyncio.gather(*asking)
        finally:
            for one in asking:
                one.cancel()
            await asyncio.gather(*asking, return_exceptions=True)

    async def _ask_one(
        self, index: int, prepared: Prepared, visit: Visit, started: Callable[[], None]
    ) -> None:
        told, tokenizer = self.told[index], prepared.chat.tokenizer
        # The protocol promises that closing the iterator cancels, so it can be closed.
        async with aclosing(prepared.engine.generate(self._request(index, prepared, visit))) as all:
            async for chunk in all:
                if chunk.tokens and visit.ttft_ms is None:
                    started()
                visit.count(chunk, len(prepared.prompt), index)
                if self._body.logprobs:
                    told.logprobs += _logprobs(chunk, tokenizer)
                told.finish_reason = chunk.finish_reason
                await self.say(chunk.text, index)

    def _request(self, index: int, prepared: Prepared, visit: Visit) -> GenerateRequest:
        assert visit.served is not None
        assert visit.reserved is not None
        body = self._body
        sampling = Sampling(
            max_tokens=visit.reserved.completion_tokens // body.n,
            temperature=body.temperature,
            top_p=body.top_p,
            top_k=body.top_k,
            seed=None if body.seed is None else (body.seed + index) % 2**63,
            stop=tuple(body.stop),
            min_p=body.min_p,
            repetition_penalty=body.repetition_penalty,
            presence_penalty=body.presence_penalty,
            frequency_penalty=body.frequency_penalty,
            stop_tokens=tuple(body.stop_token_ids),
            top_logprobs=body.top_logprobs,
            schema=body.schema_text,
            deterministic=body.deterministic,
        )
        id = visit.id if body.n == 1 else f"{visit.id}.{index}"
        version, prompt = visit.served.hash, prepared.prompt
        # Nobody hears a part of it; what it tells of its tokens is told one by one.
        whole = self._hear is None and not body.logprobs
        return GenerateRequest(
            version, prompt, sampling, id, visit.priority, visit.patience_s, whole
        )


def _logprobs(chunk: Chunk, tokenizer: Tokenizer) -> list[TokenLogprob]:
    tops = chunk.top or ((),) * len(chunk.tokens)
    return [
        TokenLogprob(
            **_alternative(token, logprob, tokenizer),
            top_logprobs=[Alternative(**_alternative(*one, tokenizer)) for one in top],
        )
        for token, logprob, top in zip(chunk.tokens, chunk.logprobs, tops, strict=True)
    ]


def _alternative(token: int, logprob: float, tokenizer: Tokenizer) -> dict[str, Any]:
    raw = tokenizer.bytes_of(token)
    return {"token": raw.decode(errors="replace"), "bytes": list(raw), "logprob": logprob}


async def admitted(
    desk: Desk, visit: Visit, body: GenerateBody, work: Generation, *, streaming: bool
) -> Answering[None]:
    """A request that somebody will answer, its price held."""
    resolved = await desk.resolve(visit, body)
    if resolved.logged:
        visit.words = lambda: (prompt_of(body), [choice.text for choice in work.choices])
    if not body.fallback:
        resolved = resolved.best_alone
    answering = Answering(desk, visit, body, resolved, work, streaming=streaming)
    await answering.admit()
    return answering


async def answer(answering: Answering[None], work: Generation, hear: Hear | None = None) -> None:
    """Run it to its end; `work` has the whole text then, and `hear` was told of every piece."""
    with work.heard_by(hear):
        await answering.run()
        if answering.templated:
            work.forget()
            for index in range(len(work.told)):
                await work.say(answering.safe_text, index)
