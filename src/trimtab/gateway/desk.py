"""What the routes share, and the way of a request from its body to a prompt in tokens."""

from dataclasses import dataclass, field
from typing import Annotated

import anyio.to_thread
from anyio import CapacityLimiter
from fastapi import Depends, Request

from trimtab.gateway.billing.books import Books
from trimtab.gateway.bodies import Asked, Continued
from trimtab.gateway.catalogue import Catalogue, Resolved, Served
from trimtab.gateway.drain import Drain
from trimtab.gateway.encoders import Encoders
from trimtab.gateway.off_loop import OffLoop
from trimtab.gateway.openai.dialogue import Dialogue
from trimtab.gateway.problems import Problem
from trimtab.gateway.streams.live import Lives
from trimtab.gateway.telemetry.refusals import Refusals
from trimtab.gateway.tiers.upstream import Upstreams
from trimtab.gateway.visit import Visit
from trimtab.inference import Engine, Message
from trimtab.store.blobs import Blobs
from trimtab.text.chat import ChatFormat

# Characters that are tokenised faster than a thread is reached.
INLINE = 2000
# Of the machine's cores, engines need the most.
TRIALS = 2


@dataclass(frozen=True, slots=True)
class Prepared:
    """An engine that holds the version, and the prompt in tokens, which fits its `context`."""

    engine: Engine
    prompt: tuple[int, ...]
    context: int
    chat: ChatFormat
    opening: str = ""
    """The first words of the answer, where a tool has to be called."""

    @property
    def room(self) -> int:
        """How many tokens of completion the context leaves."""
        return self.context - len(self.prompt)


@dataclass(frozen=True, slots=True)
class Desk:
    database: OffLoop
    catalogue: Catalogue
    encoders: Encoders
    books: Books
    upstreams: Upstreams
    live: Lives
    drain: Drain
    content: Blobs
    refusals: Refusals
    trials: CapacityLimiter = field(default_factory=lambda: CapacityLimiter(TRIALS))
    """Threads that try whether a template fits a schema: each may take a process some seconds."""

    async def resolve(self, visit: Visit, body: Asked) -> Resolved:
        """Who may answer, with the safe template filled in. Raises Problem and TrimtabError."""
        found = await self.catalogue.resolve(body.model)
        visit.asked = visit.served = found.tiers[0]
        return found

    async def prepare(self, visit: Visit, body: Asked, served: Served) -> Prepared:
        """Reach the engine of a version, and tokenise. Raises Problem and TrimtabError."""
        engine, capabilities = await self.catalogue.able(served)
        visit.runtime = capabilities.runtime
        opening = body.opening(served.chat) if isinstance(body, Dialogue) else ""
        if _length(body) <= INLINE:
            prompt = _tokens(served.chat, body, opening)
        else:
            prompt = await anyio.to_thread.run_sync(_tokens, served.chat, body, opening)
        return Prepared(engine, prompt, capabilities.context, served.chat, opening)


def _length(body: Asked) -> int:
    if isinstance(body, Dialogue):
        return body.length
    turns = body.messages or ()
    return len(body.prompt or "") + sum(len(turn.content) for turn in turns)


def _tokens(chat: ChatFormat, body: Asked, opening: str) -> tuple[int, ...]:
    if isinstance(body, Dialogue):
        return chat.prompt_tokens(chat.messages_of(body.turns), body.offered, opening)
    if isinstance(body, Continued):
        return tuple(chat.tokenizer.encode(body.prompt or ""))
    if body.messages is not None:
        turns = [Message(turn.role, turn.content) for turn in body.messages]
        return chat.prompt_tokens(chat.messages_of(turns))
    assert body.prompt is not None
    return chat.prompt_tokens(chat.messages_of(body.prompt))


def check_fit(prepared: Prepared, completion: int, what: str) -> None:
    """Raises Problem, with the numbers, where prompt and completion pass the context."""
    if completion > prepared.room:
        raise Problem(
            422,
            "too_long",
            f"{what}: {len(prepared.prompt)} tokens of prompt and {completion} of completion "
            f"pass the context of {prepared.context}",
        )


async def _of(request: Request) -> Desk:
    desk = request.app.state.desk
    assert isinstance(desk, Desk)
    return desk


AtDesk = Annotated[Desk, Depends(_of)]
