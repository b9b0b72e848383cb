"""Generating one answer, for every route that offers it."""

from collections.abc import Awaitable, Callable
from contextlib import aclosing

from trimtab.errors import EngineError
from trimtab.gateway.answering import Answering
from trimtab.gateway.bodies import GenerateBody
from trimtab.gateway.catalogue import Served
from trimtab.gateway.desk import Desk, Prepared, check_fit
from trimtab.gateway.visit import Visit
from trimtab.inference import GenerateRequest, Sampling

Hear = Callable[[str], Awaitable[None]]


class Generation:
    """The work of a body. `hear` gets every piece of text as it comes, `text` has the whole."""

    def __init__(self, body: GenerateBody, hear: Hear | None = None) -> None:
        self._body = body
        self._hear = hear
        self._text: list[str] = []

    @property
    def text(self) -> str:
        return "".join(self._text)

    def size(self, prepared: Prepared, served: Served) -> tuple[int, int]:
        """Raises Problem where prompt and answer pass the context."""
        asked, default = self._body.max_tokens, served.version.spec.defaults["max_tokens"]
        # A default is no wish: it gives way to the context, a number of the caller's does not.
        max_tokens = asked or max(1, min(default, prepared.room))
        check_fit(prepared, max_tokens, "max_tokens" if asked else "prompt")
        return max_tokens, 1

    async def ask(self, prepared: Prepared, visit: Visit, started: Callable[[], None]) -> None:
        """Generate to the end, counting on the way. Raises EngineError, and what `hear` raises."""
        self.forget()
        if prepared.opening:
            # Nobody hears it: it is a part of a call, which is told as a whole.
            self._text.append(prepared.opening)
        # The protocol promises that closing the iterator cancels, so it can be closed.
        chunks = prepared.engine.generate(self._request(prepared, visit))
        async with aclosing(chunks):
            async for chunk in chunks:
                if chunk.tokens and visit.ttft_ms is None:
                    started()
                visit.count(chunk, len(prepared.prompt))
                await self.say(chunk.text)
        if visit.finish_reason is None:
            raise EngineError(f"request {visit.id}: the stream ended without a finish reason")

    def forget(self) -> None:
        """Drop what an attempt said that nobody has seen."""
        self._text.clear()

    async def say(self, text: str) -> None:
        if text:
            self._text.append(text)
            if self._hear is not None:
                await self._hear(text)

    def _request(self, prepared: Prepared, visit: Visit) -> GenerateRequest:
        assert visit.served is not None
        assert visit.reserved is not None
        body = self._body
        sampling = Sampling(
            max_tokens=visit.reserved.completion_tokens,
            temperature=body.temperature,
            top_p=body.top_p,
            top_k=body.top_k,
            seed=body.seed,
            stop=tuple(body.stop),
        )
        return GenerateRequest(
            visit.served.hash, prepared.prompt, sampling, visit.id, visit.priority
        )


async def admitted(
    desk: Desk, visit: Visit, body: GenerateBody, work: Generation, *, streaming: bool
) -> Answering[None]:
    """A request that somebody will answer, its price held."""
    resolved = await desk.resolve(visit, body)
    if not body.fallback:
        resolved = resolved.best_alone
    answering = Answering(desk, visit, body, resolved, work, streaming=streaming)
    await answering.admit()
    return answering


async def answer(answering: Answering[None], work: Generation) -> None:
    """Run it to its end; `work` has heard the whole text then."""
    await answering.run()
    if answering.templated:
        work.forget()
        await work.say(answering.safe_text)
