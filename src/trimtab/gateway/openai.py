"""`POST /v1/chat/completions` and `/v1/completions`, for any client of OpenAI's API."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Header, Request
from pydantic import BaseModel
from starlette.responses import Response
from starlette.types import Receive

from trimtab.canonical import canonical_json
from trimtab.gateway import problems, replaying
from trimtab.gateway.admission import Admission
from trimtab.gateway.bodies import Choice, GenerateBody, Token
from trimtab.gateway.desk import AtDesk, Desk
from trimtab.gateway.dialogue import AnswerCall, DeltaCall
from trimtab.gateway.generation import Generation, admitted, answer
from trimtab.gateway.offer import Offer
from trimtab.gateway.openai_bodies import (
    AnswerMessage,
    CachedTokens,
    ChatAnswer,
    ChatBody,
    ChatChoice,
    ChatChunk,
    ChatLogprobs,
    Common,
    CompletionAnswer,
    CompletionBody,
    CompletionChunk,
    Delta,
    DeltaChoice,
    Envelope,
    OpenAIUsage,
    TextChoice,
    TextLogprobs,
)
from trimtab.gateway.problems import Problem
from trimtab.gateway.stream import Emit, EventStream, unless_gone
from trimtab.gateway.visit import Visit
from trimtab.text.tool_calls import Listener

router = APIRouter()
# What the first piece of a dialogue's answer has beside its text.
_OPENING = b',"role":"assistant"'
_quoted = json.JSONEncoder(ensure_ascii=False).encode
IdempotencyKey = Annotated[str | None, Header()]


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


class Mold:
    """The pieces of a stream differ in their text alone: what is around it is written once."""

    # Of what no name may hold, so that it stands in a piece once.
    MARK = "\x00"

    def __init__(self, marked: Envelope) -> None:
        around = _event(marked)
        self._head, self._tail = around.split(_written(self.MARK))

    def event(self, text: str, beside: bytes = b"") -> bytes:
        """A piece; `beside` its text may stand what it has more."""
        return self._head + _written(text) + beside + self._tail


@dataclass(slots=True)
class Told:
    """How far one answer of a dialogue was told; `reading` keeps back what may be a call."""

    reading: Listener | None
    first: bool = True
    mold: Mold | None = None


class Chat:
    """How a dialogue's answers and their pieces look; of an `offer`, with the calls of tools."""

    route = "chat.completions"

    def __init__(self, offer: Offer | None = None) -> None:
        self._offer = offer
        self._told: dict[int, Told] = {}

    def whole(self, visit: Visit, work: Generation) -> Envelope:
        choices = [self._choice(visit.id, choice) for choice in work.choices]
        return ChatAnswer(**_around(visit, "chat.completion"), choices=choices)

    def _choice(self, id: str, choice: Choice) -> ChatChoice:
        spoken: str | None = choice.text
        calls: list[AnswerCall] | None = None
        if self._offer is not None:
            spoken, calls = self._offer.read(choice.text, _id_of(id, choice))
        return ChatChoice(
            index=choice.index,
            message=AnswerMessage(content=spoken, tool_calls=calls),
            finish_reason=_reason(choice, calls),
            logprobs=self._logprobs(choice),
        )

    def piece(self, visit: Visit, text: str, index: int) -> bytes | None:
        """What goes out for a piece of text; a part of a call waits for its end."""
        told = self._of(index)
        said = text if told.reading is None else told.reading.push(text)
        if not said:
            return None
        if told.mold is None:
            marked = DeltaChoice(index=index, delta=Delta(content=Mold.MARK))
            told.mold = Mold(self._chunk(visit, [marked]))
        opening = _OPENING if told.first else b""
        told.first = False
        return told.mold.event(said, opening)

    def end(self, visit: Visit, work: Generation) -> list[Envelope]:
        """What is left of every answer, and why it ended, with the log-probabilities of all its
        tokens, where they are wanted.
        """
        ends = [chunk for choice in work.choices for chunk in self._end(visit, choice)]
        return [*ends[:-1], _closing(ends[-1], visit)]

    def _end(self, visit: Visit, choice: Choice) -> list[Envelope]:
        rest: str | None = None
        calls: list[DeltaCall] | None = None
        reading = self._of(choice.index).reading
        if self._offer is not None and reading is not None:
            rest, calls = self._offer.rest(reading, choice.text, _id_of(visit.id, choice))
        more = [Delta(content=rest)] if rest else []
        more += [Delta(tool_calls=[call]) for call in calls or ()]
        last = DeltaChoice(
            index=choice.index,
            delta=Delta(),
            finish_reason=_reason(choice, calls),
            logprobs=self._logprobs(choice),
        )
        return [
            *(self._delta(visit, choice.index, delta) for delta in more),
            self._chunk(visit, [last]),
        ]

    def _of(self, index: int) -> Told:
        if (told := self._told.get(index)) is None:
            listener = None if self._offer is None else self._offer.listener()
            told = self._told[index] = Told(listener)
        return told

    def _delta(self, visit: Visit, index: int, delta: Delta) -> Envelope:
        told = self._of(index)
        if told.first:
            delta.role, told.first = "assistant", False
        return self._chunk(visit, [DeltaChoice(index=index, delta=delta)])

    @staticmethod
    def _logprobs(choice: Choice) -> ChatLogprobs | None:
        return None if choice.logprobs is None else ChatLogprobs(content=choice.logprobs)

    def usage(self, visit: Visit) -> Envelope:
        return ChatChunk(**_around(visit, "chat.completion.chunk"), choices=[])

    def _chunk(self, visit: Visit, choices: list[DeltaChoice]) -> Envelope:
        return ChatChunk(**_bare(visit, "chat.completion.chunk"), choices=choices)


class Completions:
    """How a continued text and its pieces look."""

    route = "completions"

    def __init__(self) -> None:
        self._molds: dict[int, Mold] = {}

    def whole(self, visit: Visit, work: Generation) -> Envelope:
        choices = [
            TextChoice(
                index=choice.index,
                text=choice.text,
                finish_reason=_end_of(choice),
                logprobs=self._logprobs(choice),
            )
            for choice in work.choices
        ]
        return CompletionAnswer(**_around(visit, "text_completion"), choices=choices)

    def piece(self, visit: Visit, text: str, index: int) -> bytes:
        if index not in self._molds:
            marked = TextChoice(index=index, text=Mold.MARK, finish_reason=None)
            self._molds[index] = Mold(self._chunk(visit, [marked]))
        return self._molds[index].event(text)

    def end(self, visit: Visit, work: Generation) -> list[Envelope]:
        ends = [self._end(visit, choice) for choice in work.choices]
        return [*ends[:-1], _closing(ends[-1], visit)]

    def _end(self, visit: Visit, choice: Choice) -> Envelope:
        last = TextChoice(
            index=choice.index,
            text="",
            finish_reason=_end_of(choice),
            logprobs=self._logprobs(choice),
        )
        return self._chunk(visit, [last])

    @staticmethod
    def _logprobs(choice: Choice) -> TextLogprobs | None:
        return None if choice.logprobs is None else TextLogprobs.of(choice.logprobs)

    def usage(self, visit: Visit) -> Envelope:
        return CompletionChunk(**_around(visit, "text_completion"), choices=[])

    def _chunk(self, visit: Visit, choices: list[TextChoice]) -> Envelope:
        return CompletionChunk(**_bare(visit, "text_completion"), choices=choices)


Shape = Chat | Completions


class Theirs:
    """Events without names, ended by [DONE]."""

    def event(self, event: str, data: BaseModel, mark: int | None) -> bytes:
        if event == "end":
            return b"data: [DONE]\n\n"
        return _event(data)

    def error(self, problem: Problem, trace_id: str) -> bytes:
        told = canonical_json(problems.openai_body(problem, trace_id))
        return b"data: " + told + b"\n\n"


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


def _bare(visit: Visit, kind: str) -> dict[str, Any]:
    return {
        "id": visit.id,
        "object": kind,
        "created": visit.begun_s,
        "model": visit.model,
        "system_fingerprint": visit.answering_version,
    }


def _id_of(request: str, choice: Choice) -> str:
    """What the calls in one of several answers are named after."""
    return f"{request}.{choice.index}" if choice.index else request


def _closing(last: Envelope, visit: Visit) -> Envelope:
    """A stream says who answered and at what cost, whether or not its client asks for its usage."""
    last.trimtab = _told(visit)
    return last


def _told(visit: Visit) -> dict[str, Any]:
    told = visit.answered()
    return {name: value for name, value in told.items() if name not in ("usage", "id")}


def _around(visit: Visit, kind: str) -> dict[str, Any]:
    usage = visit.usage
    return {
        **_bare(visit, kind),
        "usage": OpenAIUsage(
            prompt_tokens=usage.prompt,
            completion_tokens=usage.completion,
            total_tokens=usage.prompt + usage.completion,
            prompt_tokens_details=CachedTokens(cached_tokens=usage.cached),
        ),
        "trimtab": _told(visit),
    }


def _reason(
    choice: Choice, calls: Sequence[AnswerCall] | None
) -> Literal["stop", "length", "tool_calls"]:
    return "tool_calls" if calls else _end_of(choice)


def _end_of(choice: Choice) -> Literal["stop", "length"]:
    return "length" if choice.finish_reason == "length" else "stop"


def _written(text: str) -> bytes:
    return _quoted(text).encode()


def _event(data: BaseModel) -> bytes:
    """A piece leaves out what it has not; a choice's finish_reason is null until it has one."""
    found = data.model_dump(exclude_none=True)
    for choice in found.get("choices", []):
        choice.setdefault("finish_reason", None)
    return b"data: " + canonical_json(found) + b"\n\n"
