"""`POST /v1/generate`: one answer, whole or as a stream of events."""

from collections.abc import Awaitable, Callable
from contextlib import aclosing

from fastapi import APIRouter, Request
from starlette.responses import Response
from starlette.types import Receive

from trimtab.errors import EngineError
from trimtab.gateway.bodies import Done, GenerateAnswer, GenerateBody, Token
from trimtab.gateway.desk import AtDesk, Desk, Prepared, check_fit
from trimtab.gateway.stream import Emit, EventStream, unless_gone
from trimtab.gateway.visit import Visit
from trimtab.inference import Chunk, Engine, FinishReason, GenerateRequest, Sampling

router = APIRouter()


@router.post("/v1/generate", response_model=GenerateAnswer)
async def generate(body: GenerateBody, request: Request, desk: AtDesk) -> Response | GenerateAnswer:
    """Complete a prompt. With `stream`, server-sent events `token`, then `done` or `error`."""
    visit = Visit.of(request, "generate", body)
    async with desk.books.accounted(visit):
        prepared = await desk.prepare(visit, body)
        wanted = await _admitted(desk, visit, body, prepared)
        if body.stream:
            return _streamed(desk, visit, prepared.engine, wanted)
        text: list[str] = []

        async def hear(chunk: Chunk) -> None:
            text.append(chunk.text)

        work = _heard(prepared.engine, wanted, visit, hear)
        finish_reason = await unless_gone(request.receive, work)
        await desk.books.close(visit)
    return GenerateAnswer(**visit.answered(), text="".join(text), finish_reason=finish_reason)


async def _admitted(
    desk: Desk, visit: Visit, body: GenerateBody, prepared: Prepared
) -> GenerateRequest:
    """The work that the ledger holds the price of."""
    assert visit.served is not None
    default = visit.served.version.spec.defaults["max_tokens"]
    # A default is no wish: it gives way to the context, where a number of the caller's does not.
    max_tokens = body.max_tokens or max(1, min(default, prepared.room))
    check_fit(prepared, max_tokens, "max_tokens" if body.max_tokens else "prompt")
    await desk.books.reserve(visit, len(prepared.prompt), max_tokens, least=1)
    assert visit.reserved is not None
    sampling = Sampling(
        max_tokens=visit.reserved.completion_tokens,
        temperature=body.temperature,
        top_p=body.top_p,
        top_k=body.top_k,
        seed=body.seed,
        stop=tuple(body.stop),
    )
    return GenerateRequest(visit.served.version.hash, prepared.prompt, sampling, visit.id)


async def _heard(
    engine: Engine,
    wanted: GenerateRequest,
    visit: Visit,
    hear: Callable[[Chunk], Awaitable[None]],
) -> FinishReason:
    """Generate to the end, counting on the way, and say why it ended.

    Raises EngineError, and ClientGone where `hear` does.
    """
    # The protocol promises that closing the iterator cancels, so it can be closed.
    chunks = engine.generate(wanted)
    async with aclosing(chunks):
        async for chunk in chunks:
            visit.count(chunk, len(wanted.prompt))
            await hear(chunk)
    if visit.finish_reason is None:
        raise EngineError(f"request {wanted.id}: the stream ended without a finish reason")
    return visit.finish_reason


def _streamed(desk: Desk, visit: Visit, engine: Engine, wanted: GenerateRequest) -> EventStream:
    async def produce(emit: Emit, receive: Receive) -> None:
        text: list[str] = []

        async def hear(chunk: Chunk) -> None:
            if chunk.text:
                text.append(chunk.text)
                await emit("token", Token(text=chunk.text))

        async with desk.books.accounted(visit):
            finish_reason = await unless_gone(receive, _heard(engine, wanted, visit, hear))
            await desk.books.close(visit)
        done = Done(
            **visit.answered(),
            text="".join(text),
            finish_reason=finish_reason,
            ttft_ms=visit.ttft_ms,
        )
        await emit("done", done)

    return EventStream(produce, visit.trace_id)
