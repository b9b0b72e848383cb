"""What an Idempotency-Key does to a request: replay, refuse, take up again, or claim."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress

from starlette.responses import Response
from starlette.types import Receive

from trimtab.errors import TrimtabError
from trimtab.gateway import replays
from trimtab.gateway.bodies import Done
from trimtab.gateway.desk import Desk
from trimtab.gateway.problems import Problem
from trimtab.gateway.replays import Claim, Replay
from trimtab.gateway.streams import elsewhere
from trimtab.gateway.streams.stream import Emit, EventStream
from trimtab.gateway.visit import Visit

REPLAYED = "Idempotency-Replayed"


async def begin(
    desk: Desk,
    visit: Visit,
    body: bytes,
    header: str | None,
    last_event_id: str | None,
    *,
    streamed: bool,
) -> Response | Claim | None:
    """The answer, where there is one already; a claim, where it is to be made under a name; None
    where no name was given. Raises Problem."""
    name = replays.name_of(header)
    if name is None:
        return None
    offset = _offset(last_event_id)
    print_ = replays.fingerprint(visit.route, body)
    live = desk.live.get((visit.key.id, name))
    if live is not None and last_event_id is not None and live.fingerprint == print_:
        return live.stream(offset)
    claim = Claim(visit.key.id, name, print_, visit.id, desk.books.owner)
    try:
        answer = await desk.database.write(lambda connection: replays.claim(connection, claim))
    except Problem as busy:
        if busy.code != "idempotency_in_flight" or last_event_id is None or not streamed:
            raise
        return await elsewhere.followed(desk, claim, offset, visit.trace_id)
    if answer is None:
        if offset:
            # What was heard of it is no beginning of what would be said now.
            await desk.database.write(lambda connection: replays.release(connection, claim))
            raise elsewhere.lost(retryable=False)
        return claim
    visit.headers[REPLAYED] = "true"
    if streamed:
        return _told_again(Done.model_validate_json(answer), offset, visit.trace_id)
    return Response(answer, media_type="application/json")


@asynccontextmanager
async def released(desk: Desk, claim: Claim | None) -> AsyncIterator[None]:
    """Whatever fails inside may be asked again under the same name; an answer that the books still
    owe is what that hears, once it is written."""
    if claim is None:
        yield
        return
    try:
        with desk.books.claiming(claim):
            yield
    except BaseException:
        if not desk.books.owes(claim):
            # Where it cannot be written, it expires soon.
            with suppress(TrimtabError):
                await desk.database.write(lambda connection: replays.release(connection, claim))
        raise


def kept(claim: Claim | None, answer: Callable[[], str]) -> Replay | None:
    return None if claim is None else Replay(claim, answer)


def _offset(last_event_id: str | None) -> int:
    if last_event_id is None:
        return 0
    if not last_event_id.isdecimal() or len(last_event_id) > 9:
        raise Problem(400, "invalid_request", "Last-Event-ID: not an id of this stream")
    return int(last_event_id)


def _told_again(done: Done, offset: int, trace_id: str) -> EventStream:
    async def produce(emit: Emit, receive: Receive) -> None:
        await elsewhere.told_again(emit, done, offset)

    return EventStream(produce, trace_id)
