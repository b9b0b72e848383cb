"""`POST /v1/generate`: one answer, whole or as a stream of events."""

from functools import partial
from typing import Annotated

from fastapi import APIRouter, Header, Request
from starlette.responses import Response
from starlette.types import Receive

from trimtab.gateway import replaying
from trimtab.gateway.admission import Admission
from trimtab.gateway.bodies import Done, GenerateAnswer, GenerateBody, Token
from trimtab.gateway.desk import AtDesk, Desk
from trimtab.gateway.generation import Generation, admitted, answer
from trimtab.gateway.problems import Problem
from trimtab.gateway.replays import Claim
from trimtab.gateway.streams import elsewhere
from trimtab.gateway.streams.live import Live
from trimtab.gateway.streams.stream import Emit, EventStream, unless_gone
from trimtab.gateway.visit import Visit

router = APIRouter()


@router.post("/v1/generate", response_model=GenerateAnswer)
async def generate(
    body: GenerateBody,
    request: Request,
    desk: AtDesk,
    idempotency_key: Annotated[str | None, Header()] = None,
    last_event_id: Annotated[str | None, Header()] = None,
) -> Response:
    """Complete a prompt. With `stream`, server-sent events `token`, then `done` or `error`."""
    visit = Visit.of(request.state, "generate", body)
    if body.stream and body.n > 1 and idempotency_key is not None:
        raise Problem(
            422, "invalid_request", "Idempotency-Key: a stream that is kept tells one answer"
        )
    named = await replaying.begin(
        desk, visit, await request.body(), idempotency_key, last_event_id, streamed=body.stream
    )
    if isinstance(named, Response):
        return named
    if not body.stream:
        return await _whole(desk, visit, body, request.receive, named)
    if named is None:
        return await _streamed(desk, visit, body)
    return await _kept_alive(desk, visit, body, named)


async def _whole(
    desk: Desk, visit: Visit, body: GenerateBody, receive: Receive, claim: Claim | None
) -> Response:
    work = Generation(body)

    def made() -> GenerateAnswer:
        return GenerateAnswer(**visit.answered(), **work.spoken)

    async with replaying.released(desk, claim), desk.books.accounted(visit):
        answering = await admitted(desk, visit, body, work, streaming=False)
        await unless_gone(receive, answer(answering, work), answering.left_s)
        kept = replaying.kept(claim, lambda: made().model_dump_json())
        await desk.books.close(visit, kept=kept)
    # Written once: a framework would check and copy what was just made.
    return Response(made().model_dump_json(), media_type="application/json")


async def _streamed(desk: Desk, visit: Visit, body: GenerateBody) -> EventStream:
    work = Generation(body)

    async def produce(emit: Emit, receive: Receive) -> None:
        async def hear(text: str, index: int) -> None:
            await emit("token", piece(body, text, index))

        async with desk.books.accounted(visit):
            await unless_gone(receive, admission.finish(work, hear), admission.left_s)
            await desk.books.close(visit)
        await emit("done", done(visit, work))

    async with desk.books.accounted(visit):
        admission = await Admission.begun(admitted(desk, visit, body, work, streaming=True))
    return EventStream(produce, visit.trace_id)


async def _kept_alive(desk: Desk, visit: Visit, body: GenerateBody, claim: Claim) -> EventStream:
    """A stream whose work goes on for a while when its reader is gone."""
    live = Live(claim.fingerprint, visit.trace_id, partial(elsewhere.listened, desk, claim))
    work = Generation(body)

    async def hear(text: str, index: int) -> None:
        await live.hear(text)

    async def produce(admission: Admission) -> Done:
        async with replaying.released(desk, claim), desk.books.accounted(visit):
            await live.unless_left(admission.finish(work, hear), admission.left_s)
            kept = replaying.kept(claim, lambda: done(visit, work).model_dump_json())
            await desk.books.close(visit, kept=kept)
        return done(visit, work)

    async with replaying.released(desk, claim), desk.books.accounted(visit):
        admission = await Admission.begun(admitted(desk, visit, body, work, streaming=True))
    desk.live.start((claim.key_id, claim.name), live, produce(admission))
    return live.stream(0)


def piece(body: GenerateBody, text: str, index: int) -> Token:
    """A piece of one of the answers that a body asks for."""
    return Token(text=text, index=index if body.n > 1 else None)


def done(visit: Visit, work: Generation) -> Done:
    return Done(**visit.answered(), **work.spoken, ttft_ms=visit.ttft_ms)
