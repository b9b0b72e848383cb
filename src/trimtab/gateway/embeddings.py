"""`POST /v1/embeddings`: a vector for each text, for any client of OpenAI's API.

By the encoder that is named, or by nobody: a vector of another encoder is no answer. One attempt,
since a client that sends the same again pays for it once.
"""

import base64
import struct
from collections.abc import Sequence
from typing import Annotated, Literal

import anyio.to_thread
from fastapi import APIRouter, Header, Request
from starlette.responses import Response

from trimtab.errors import DataError
from trimtab.gateway import replaying
from trimtab.gateway.bodies import Asked
from trimtab.gateway.desk import INLINE, AtDesk, Desk
from trimtab.gateway.embedding_bodies import (
    EmbeddingBody,
    EmbeddingsAnswer,
    EmbeddingsBody,
    EmbeddingUsage,
)
from trimtab.gateway.encoders import Encoding
from trimtab.gateway.problems import Problem
from trimtab.gateway.streams import stream
from trimtab.gateway.streams.stream import unless_gone
from trimtab.gateway.tiers import upstream
from trimtab.gateway.tiers.answering import TIMER_S
from trimtab.gateway.visit import Visit
from trimtab.inference import EmbedRequest, Engine, Usage, Vector

# Inputs that are computed before a gone client is noticed, and before others get their turn; fewer
# of a batch, which nobody waits for.
TOGETHER, FEW = 64, 8

router = APIRouter()

Inputs = tuple[tuple[int, ...], ...]


@router.post("/v1/embeddings", response_model=EmbeddingsAnswer)
async def embeddings(
    body: EmbeddingsBody,
    request: Request,
    desk: AtDesk,
    idempotency_key: Annotated[str | None, Header()] = None,
) -> Response:
    """Embed texts. Every token is paid for at the encoder's price of a prompt's token."""
    visit = Visit.of(request.state, "embeddings", Asked.model_construct(model=body.model))
    visit.user_id = body.user or None
    raw = await request.body()
    claim = await replaying.begin(desk, visit, raw, idempotency_key, None, streamed=False)
    if isinstance(claim, Response):
        return claim
    vectors: list[Vector] = []

    def made() -> EmbeddingsAnswer:
        return answer(visit, vectors, body.encoding_format)

    async with replaying.released(desk, claim), desk.books.accounted(visit):
        encoding = await desk.encoders.find(body.model)
        visit.asked = visit.served = encoding
        inputs = await tokens(encoding, body)
        visit.deadline = visit.arrived + stream.DEADLINE_S
        work = _embedded(desk, visit, encoding, inputs)
        vectors = await unless_gone(request.receive, work, visit.patience_s)
        kept = replaying.kept(claim, lambda: made().model_dump_json())
        await desk.books.close(visit, kept=kept)
    return Response(made().model_dump_json(), media_type="application/json")


async def tokens(encoding: Encoding, body: EmbeddingsBody) -> Inputs:
    """In the frame of the encoder. Raises Problem where one is too long, or where other dimensions
    are asked for."""
    dimensions = encoding.encoder.dimensions
    if body.dimensions not in (None, dimensions):
        raise Problem(
            422,
            "invalid_request",
            f"dimensions: a vector of this encoder has {dimensions} numbers and cannot be cut",
        )
    given = body.inputs
    if sum(map(len, given)) <= INLINE:
        return _framed(encoding, given)
    return await anyio.to_thread.run_sync(_framed, encoding, given)


def _framed(encoding: Encoding, given: Sequence[str | list[int]]) -> Inputs:
    form, found = encoding.format, []
    for place, each in enumerate(given):
        try:
            tokens = form.of_text(each) if isinstance(each, str) else form.of_tokens(each)
        except DataError as error:
            raise Problem(422, "invalid_request", f"input.{place}: {error.message}") from None
        if len(tokens) > form.max_tokens:
            raise Problem(
                422,
                "too_long",
                f"input.{place}: {len(tokens)} tokens pass the encoder's {form.max_tokens}",
            )
        found.append(tokens)
    return tuple(found)


async def _embedded(desk: Desk, visit: Visit, encoding: Encoding, inputs: Inputs) -> list[Vector]:
    """Hold the price, ask the engine, and tell the breaker how it went."""
    breaker = desk.upstreams.breaker(encoding)
    permit = breaker.allow()
    if permit is None:
        raise upstream.shut(breaker.wait_s)
    try:
        engine = desk.encoders.engine(encoding)
        visit.runtime = (await engine.capabilities()).runtime
        await desk.books.reserve(visit, sum(map(len, inputs)), 0, 0)
        visit.begin_attempt()
        vectors = await asked(engine, visit, encoding.hash, inputs)
    except BaseException as error:
        late = visit.patience_s is not None and visit.patience_s < TIMER_S
        upstream.gave_up(permit, error, silent=late and not visit.usage.prompt)
        raise
    permit.succeeded()
    visit.finish_reason = "stop"
    return vectors


async def asked(engine: Engine, visit: Visit, encoder: str, inputs: Inputs) -> list[Vector]:
    """The vectors of inputs, some at a time."""
    found: list[Vector] = []
    together = TOGETHER if visit.priority == "interactive" else FEW
    for start in range(0, len(inputs), together):
        part, name = inputs[start : start + together], f"{visit.id}-{start}"
        found += await engine.embed(EmbedRequest(encoder, part, name, visit.priority))
        # A client that leaves pays for what was computed until then.
        visit.usage = Usage(visit.usage.prompt + sum(map(len, part)), 0)
    return found


def answer(
    visit: Visit, vectors: Sequence[Vector], form: Literal["float", "base64"]
) -> EmbeddingsAnswer:
    """The books must be closed, the cost known."""
    told = visit.answered()
    return EmbeddingsAnswer(
        data=[
            EmbeddingBody(index=place, embedding=_spelled(vector, form))
            for place, vector in enumerate(vectors)
        ],
        model=visit.model,
        usage=EmbeddingUsage(prompt_tokens=visit.usage.prompt, total_tokens=visit.usage.prompt),
        trimtab={name: value for name, value in told.items() if name != "usage"},
    )


def _spelled(vector: Vector, form: Literal["float", "base64"]) -> list[float] | str:
    if form == "float":
        return list(vector)
    return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()
