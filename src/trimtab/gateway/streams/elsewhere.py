"""Streams that another gateway works on, followed through the database.

Several gateways share one address, so a client that comes back may meet another one than it left.
That one says in the claim's row that somebody listens; the one that works then goes on working, and
puts down there what it has said so far.
"""

import asyncio

from starlette.types import Receive

from trimtab.gateway import replays
from trimtab.gateway.billing.group import STORE
from trimtab.gateway.bodies import Done, Token
from trimtab.gateway.desk import Desk
from trimtab.gateway.problems import Problem
from trimtab.gateway.replays import Claim, Heard
from trimtab.gateway.streams import live
from trimtab.gateway.streams.stream import Emit, EventStream, unless_gone


async def followed(desk: Desk, wanted: Claim, offset: int, trace_id: str) -> EventStream:
    """The stream that is being made under a name, from a character on.

    Raises Problem where nobody makes it any more.
    """
    heard = await _listen(desk, wanted)
    work = heard.request_id

    async def tell(emit: Emit, heard: Heard, offset: int) -> None:
        while heard.answer is None:
            if len(heard.said) > offset:
                text, offset = heard.said[offset:], len(heard.said)
                await emit("token", Token(text=text), offset)
            await asyncio.sleep(live.POLL_S)
            heard = await _listen(desk, wanted)
            if heard.request_id != work:
                # It is made anew, and may say something else than was heard.
                raise lost(retryable=True)
        await told_again(emit, Done.model_validate_json(heard.answer), offset)

    async def produce(emit: Emit, receive: Receive) -> None:
        with desk.live.followed((wanted.key_id, wanted.name)):
            # The work has its own deadline; when that is over, its claim is.
            await unless_gone(receive, tell(emit, heard, offset), None)

    return EventStream(produce, trace_id)


async def told_again(emit: Emit, done: Done, offset: int) -> None:
    """What is left of an answer that is whole."""
    if text := done.text[offset:]:
        await emit("token", Token(text=text), len(done.text))
    await emit("done", done, len(done.text))


async def listened(desk: Desk, held: Claim, said: str) -> bool:
    """Whether somebody listens elsewhere to the stream of a claim; if so, that has this far."""
    try:
        # Nearly always nobody does, and who reads is in nobody's way.
        if not await desk.database.read(lambda connection: replays.attended(connection, held)):
            return False
        return await desk.database.write(lambda connection: replays.publish(connection, held, said))
    except STORE:
        return False


async def _listen(desk: Desk, wanted: Claim) -> Heard:
    heard = await desk.database.read(lambda connection: replays.listen(connection, wanted))
    if heard is None:
        raise lost(retryable=True)
    if heard.unknown:
        await desk.database.write(lambda connection: replays.attend(connection, wanted))
    return heard


def lost(*, retryable: bool) -> Problem:
    """A stream cannot be taken up again. Where its work ended without an answer, it may be done
    anew."""
    detail = "Last-Event-ID: nobody works on this stream any more; send the request without it"
    return Problem(409, "stream_lost", detail, retryable=retryable)
