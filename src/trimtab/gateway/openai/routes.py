"""`POST /v1/chat/completions` and `/v1/completions`, for any client of OpenAI's API."""

from typing import Annotated

from fastapi import APIRouter, Header, Request
from starlette.responses import Response
from starlette.types import Receive

from trimtab.gateway import replaying
from trimtab.gateway.admission import Admission
from trimtab.gateway.bodies import GenerateBody, Token
from trimtab.gateway.desk import AtDesk, Desk
from trimtab.gateway.generation import Generation, admitted, answer
from trimtab.gateway.offer import Offer
from trimtab.gateway.openai.bodies import (
    ChatAnswer,
    ChatBody,
    Common,
    CompletionAnswer,
    CompletionBody,
    Envelope,
)
from trimtab.gateway.openai.chat import Chat
from trimtab.gateway.openai.completions import Completions
from trimtab.gateway.openai.envelope import Theirs
from trimtab.gateway.problems import Problem
from trimtab.gateway.streams.stream import Emit, EventStream, unless_gone
from trimtab.gateway.visit import Visit

router = APIRouter()
IdempotencyKey = Annotated[str | None, Header()]
Shape = Chat | Completions


@router.post("/v1/chat/completions", response_model=ChatAnswer)
async def chat(
    body: ChatBody, request: Request, desk: AtDesk, idempotency_key: IdempotencyKey = None
) -> Response:
    """Answer a dialogue."""
    ours = body.ours()
    shape = Chat(Offer.of(ours, body.parallel_tool_calls))
    return await _answered(shape, body, ours, request, desk, idempotency_key)


@router.post("/v1/completions", response_model=CompletionAnswer)
async def completions(
    body: CompletionBody, request: Request, desk: AtDesk, idempotency_key: IdempotencyKey = None
) -> Response:
    """Continue a text, without a template."""
    return await _answered(Completions(), body, body.ours(), request, desk, idempotency_key)


async def _answered(
    shape: Shape,
    asked: Common,
    body: GenerateBody,
    request: Request,
    desk: Desk,
    idempotency_key: str | None,
) -> Response:
    visit = Visit.of(request.state, shape.route, body)
    # Their `user` may hold anything; ours is a label in the log.
    visit.user_id = asked.user or None
    if body.stream and idempotency_key is not None:
        raise Problem(
            422, "invalid_request", "Idempotency-Key: whole answers alone are kept on this route"
        )
    claim = await replaying.begin(
        desk, visit, await request.body(), idempotency_key, None, streamed=False
    )
    if isinstance(claim, Response):
        return claim
    if body.stream:
        return await _streamed(shape, asked, body, desk, visit)
    work = Generation(body)

    def made() -> Envelope:
        return shape.whole(visit, work)

    async with replaying.released(desk, claim), desk.books.accounted(visit):
        answering = await admitted(desk, visit, body, work, streaming=False)
        await unless_gone(request.receive, answer(answering, work), answering.left_s)
        kept = replaying.kept(claim, lambda: made().model_dump_json())
        await desk.books.close(visit, kept=kept)
    return Response(made().model_dump_json(), media_type="application/json")


async def _streamed(
    shape: Shape, asked: Common, body: GenerateBody, desk: Desk, visit: Visit
) -> EventStream:
    work = Generation(body)

    async def produce(send: Emit, receive: Receive) -> None:
        async def hear(text: str, index: int) -> None:
            if (piece := shape.piece(visit, text, index)) is not None:
                await send("piece", piece)

        async with desk.books.accounted(visit):
            await unless_gone(receive, admission.finish(work, hear), admission.left_s)
            await desk.books.close(visit)
        for piece in shape.end(visit, work):
            await send("end of text", piece)
        if asked.include_usage:
            await send("usage", shape.usage(visit))
        await send("end", Token(text=""))

    async with desk.books.accounted(visit):
        admission = await Admission.begun(admitted(desk, visit, body, work, streaming=True))
    return EventStream(produce, visit.trace_id, Theirs())
