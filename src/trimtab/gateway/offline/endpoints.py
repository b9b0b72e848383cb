"""What a line of a batch may ask for: each route's body, its work, and how its answer looks."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import anyio.to_thread
from pydantic import BaseModel

from trimtab.gateway import score
from trimtab.gateway.answering import Work
from trimtab.gateway.bodies import Asked, GenerateAnswer, GenerateBody, ScoreBody
from trimtab.gateway.generation import Generation
from trimtab.gateway.offer import Offer
from trimtab.gateway.openai import Chat, Completions
from trimtab.gateway.openai_bodies import ChatBody, CompletionBody
from trimtab.gateway.visit import Visit
from trimtab.text.chat import ChatFormat


class Task(Protocol):
    """One line on its way. `asked` is its body as the gateway knows it."""

    @property
    def asked(self) -> Asked: ...

    @property
    def user(self) -> str | None: ...

    async def work(self, chat: ChatFormat) -> Work[Any]:
        """What is to be asked of an engine. Raises Problem."""

    def answer(self, visit: Visit, given: Any) -> BaseModel:
        """What the route would have answered; the books must be closed, the cost known."""


class Generate:
    def __init__(self, body: GenerateBody) -> None:
        self.asked = body
        self.user = body.user_id
        self._work = Generation(body)

    async def work(self, chat: ChatFormat) -> Work[Any]:
        return self._work

    def answer(self, visit: Visit, given: Any) -> BaseModel:
        return GenerateAnswer(**visit.answered(), **self._work.spoken)


class Score:
    def __init__(self, body: ScoreBody) -> None:
        self.asked = body
        self.user = body.user_id
        self._completions = body.completions

    async def work(self, chat: ChatFormat) -> Work[Any]:
        tokens = await anyio.to_thread.run_sync(score.tokens, chat, self._completions)
        return score.Scoring(tokens)

    def answer(self, visit: Visit, given: Any) -> BaseModel:
        return score.made(visit, given)


class OfOpenAI:
    """A route of OpenAI's, in its own shape."""

    def __init__(self, shape: Chat | Completions, asked: GenerateBody, user: str | None) -> None:
        self.asked = asked
        self.user = user
        self._shape = shape
        self._work = Generation(asked)

    async def work(self, chat: ChatFormat) -> Work[Any]:
        return self._work

    def answer(self, visit: Visit, given: Any) -> BaseModel:
        return self._shape.whole(visit, self._work)


@dataclass(frozen=True, slots=True)
class Endpoint:
    """`route` is the log's name for a line of it, `scope` what the key needs beside `batches`."""

    route: str
    scope: str
    body: type[BaseModel]
    task: Callable[[Any], Task]


def _chat(body: ChatBody) -> Task:
    ours = body.ours()
    return OfOpenAI(Chat(Offer.of(ours, body.parallel_tool_calls)), ours, body.user)


def _completion(body: CompletionBody) -> Task:
    return OfOpenAI(Completions(), body.ours(), body.user)


ENDPOINTS: Mapping[str, Endpoint] = {
    "/v1/chat/completions": Endpoint("batch.chat.completions", "generate", ChatBody, _chat),
    "/v1/completions": Endpoint("batch.completions", "generate", CompletionBody, _completion),
    "/v1/generate": Endpoint("batch.generate", "generate", GenerateBody, Generate),
    "/v1/score": Endpoint("batch.score", "score", ScoreBody, Score),
}
