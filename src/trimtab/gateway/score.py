"""`POST /v1/score`: how likely a version finds given completions. Nothing is sampled."""

from collections.abc import Callable, Sequence
from typing import Annotated

import anyio.to_thread
from anyio import CapacityLimiter
from fastapi import APIRouter, Header, Request
from starlette.responses import Response

from trimtab.gateway import replaying
from trimtab.gateway.bodies import CompletionScore, ScoreAnswer, ScoreBody
from trimtab.gateway.catalogue import Served
from trimtab.gateway.desk import AtDesk, Prepared, check_fit
from trimtab.gateway.problems import Problem
from trimtab.gateway.streams.stream import unless_gone
from trimtab.gateway.telemetry.spoken import prompt_of
from trimtab.gateway.tiers.answering import Answering
from trimtab.gateway.visit import Visit
from trimtab.inference import Score, ScoreRequest, Usage
from trimtab.text.chat import ChatFormat

router = APIRouter()


class Scoring:
    """The work of a body, by the best tier alone: a score of another model is no answer."""

    def __init__(self, completions: tuple[tuple[int, ...], ...]) -> None:
        self._completions = completions
        self._total = sum(map(len, completions))

    def size(self, prepared: Prepared, served: Served) -> tuple[int, int]:
        check_fit(prepared, max(map(len, self._completions)), "completions")
        return self._total, self._total

    async def stands_in(self, text: str, threads: CapacityLimiter) -> bool:
        return False

    async def ask(
        self, prepared: Prepared, visit: Visit, started: Callable[[], None]
    ) -> Sequence[Score]:
        assert visit.served is not None
        version = visit.served.hash
        wanted = ScoreRequest(
            version,
            prepared.prompt,
            self._completions,
            visit.id,
            visit.priority,
            visit.patience_s,
        )
        scores = await prepared.engine.score(wanted)
        # What the first of them did not find is computed, and the others find that.
        cached = min(score.cached for score in scores)
        visit.usage = Usage(len(prepared.prompt), self._total, cached)
        return scores


@router.post("/v1/score", response_model=ScoreAnswer)
async def score(
    body: ScoreBody,
    request: Request,
    desk: AtDesk,
    idempotency_key: Annotated[str | None, Header()] = None,
) -> Response | ScoreAnswer:
    """Log-probabilities of `completions`, each after the same prompt.

    The prompt is paid for once, and a scored token costs as much as a generated one.
    """
    visit = Visit.of(request.state, "score", body)
    raw = await request.body()
    claim = await replaying.begin(desk, visit, raw, idempotency_key, None, streamed=False)
    if isinstance(claim, Response):
        return claim
    scores: Sequence[Score] | None = None
    async with replaying.released(desk, claim), desk.books.accounted(visit):
        resolved = (await desk.resolve(visit, body)).best_alone
        if resolved.logged:
            visit.words = lambda: (prompt_of(body), ())
        chat = resolved.tiers[0].chat
        completions = await anyio.to_thread.run_sync(tokens, chat, body.completions)
        answering = Answering(desk, visit, body, resolved, Scoring(completions))
        await answering.admit()
        scores = await unless_gone(request.receive, answering.run(), answering.left_s)
        kept = replaying.kept(claim, lambda: made(visit, scores).model_dump_json())
        await desk.books.close(visit, kept=kept)
    return made(visit, scores)


def made(visit: Visit, scores: Sequence[Score] | None) -> ScoreAnswer:
    return ScoreAnswer(**visit.answered(), scores=[_score(found) for found in scores or ()])


def _score(found: Score) -> CompletionScore:
    return CompletionScore(
        log_probability=found.total,
        token_log_probabilities=list(found.logprobs),
        tokens=len(found.logprobs),
    )


def tokens(chat: ChatFormat, completions: Sequence[str]) -> tuple[tuple[int, ...], ...]:
    """Raises Problem for a completion without tokens."""
    found = tuple(tuple(chat.tokenizer.encode(text)) for text in completions)
    for place, each in enumerate(found):
        if not each:
            raise Problem(422, "invalid_request", f"completions.{place}: has no tokens")
    return found
