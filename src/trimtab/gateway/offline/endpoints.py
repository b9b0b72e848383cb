"""What a line of a batch may ask for: each route's body, its work, and how its answer looks."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import anyio.to_thread
from pydantic import BaseModel

from trimtab.gateway import embeddings, score
from trimtab.gateway.bodies import Asked, GenerateAnswer, GenerateBody, ScoreBody
from trimtab.gateway.catalogue import Served
from trimtab.gateway.desk import Desk
from trimtab.gateway.embedding_bodies import EmbeddingsBody
from trimtab.gateway.encoders import Answerer, Encoding
from trimtab.gateway.generation import Generation
from trimtab.gateway.offer import Offer
from trimtab.gateway.openai.bodies import ChatBody, CompletionBody
from trimtab.gateway.openai.chat import Chat
from trimtab.gateway.openai.completions import Completions
from trimtab.gateway.tiers.answering import Work
from trimtab.gateway.visit import Visit
from trimtab.inference import Vector
from trimtab.text.chat import ChatFormat


@dataclass(frozen=True, slots=True)
class Ready:
    """What can be asked now: tokens to hold the price of, of which `least` of completion must be
    covered, and the asking itself."""

    prompt: int
    completion: int
    least: int
    ask: Callable[[], Coroutine[Any, Any, Any]]


class Task(Protocol):
    """One line on its way. `asked` is its body as the gateway knows it, `vectors` how many it wants
    of an encoder."""

    @property
    def asked(self) -> Asked: ...

    @property
    def user(self) -> str | None: ...

    @property
    def vectors(self) -> int: ...

    async def answerer(self, desk: Desk) -> Answerer:
        """Who has to answer. Raises NotFound, IdentityError and Problem."""

    async def ready(self, desk: Desk, visit: Visit, answerer: Any) -> Ready:
        """Reach the engine of who answers, and tokenise. Raises Problem and TrimtabError."""

    def answer(self, visit: Visit, given: Any) -> BaseModel:
        """What the route would have answered; the books must be closed, the cost known."""


class OfModel(ABC):
    """What a model has to answer: the best tier alone. Its parts say how it is asked."""

    vectors = 0

    def __init__(self, asked: Asked, user: str | None) -> None:
        self.asked = asked
        self.user = user

    async def answerer(self, desk: Desk) -> Served:
        return (await desk.catalogue.resolve(self.asked.model)).tiers[0]

    async def ready(self, desk: Desk, visit: Visit, answerer: Served) -> Ready:
        prepared = await desk.prepare(visit, self.asked, answerer)
        work = await self.work(answerer.chat)
        completion, least = work.size(prepared, answerer)
        return Ready(
            len(prepared.prompt),
            completion,
            least,
            lambda: work.ask(prepared, visit, lambda: None),
        )

    @abstractmethod
    async def work(self, chat: ChatFormat) -> Work[Any]:
        """What is to be asked of an engine. Raises Problem."""


class Generate(OfModel):
    def __init__(self, body: GenerateBody) -> None:
        super().__init__(body, body.user_id)
        self._work = Generation(body)

    async def work(self, chat: ChatFormat) -> Work[Any]:
        return self._work

    def answer(self, visit: Visit, given: Any) -> BaseModel:
        return GenerateAnswer(**visit.answered(), **self._work.spoken)


class Score(OfModel):
    def __init__(self, body: ScoreBody) -> None:
        super().__init__(body, body.user_id)
        self._completions = body.completions

    async def work(self, chat: ChatFormat) -> Work[Any]:
        tokens = await anyio.to_thread.run_sync(score.tokens, chat, self._completions)
        return score.Scoring(tokens)

    def answer(self, visit: Visit, given: Any) -> BaseModel:
        return score.made(visit, given)


class OfOpenAI(OfModel):
    """A route of OpenAI's, in its own shape."""

    def __init__(self, shape: Chat | Completions, asked: GenerateBody, user: str | None) -> None:
        super().__init__(asked, user)
        self._shape = shape
        self._work = Generation(asked)

    async def work(self, chat: ChatFormat) -> Work[Any]:
        return self._work

    def answer(self, visit: Visit, given: Any) -> BaseModel:
        return self._shape.whole(visit, self._work)


class Embed:
    """What an encoder has to answer."""

    def __init__(self, body: EmbeddingsBody) -> None:
        self.asked = Asked.model_construct(model=body.model)
        self.user = body.user
        self.vectors = len(body.inputs)
        self._body = body

    async def answerer(self, desk: Desk) -> Encoding:
        return await desk.encoders.find(self.asked.model)

    async def ready(self, desk: Desk, visit: Visit, answerer: Encoding) -> Ready:
        engine = desk.encoders.engine(answerer)
        visit.runtime = (await engine.capabilities()).runtime
        inputs = await embeddings.tokens(answerer, self._body)

        async def ask() -> list[Vector]:
            vectors = await embeddings.asked(engine, visit, answerer.hash, inputs)
            visit.finish_reason = "stop"
            return vectors

        return Ready(sum(map(len, inputs)), 0, 0, ask)

    def answer(self, visit: Visit, given: Any) -> BaseModel:
        return embeddings.answer(visit, given, self._body.encoding_format)


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
    "/v1/embeddings": Endpoint("batch.embeddings", "embed", EmbeddingsBody, Embed),
}
