"""`POST /v1/score`: how likely a version finds given completions. Nothing is sampled."""

from collections.abc import Sequence

import anyio.to_thread
from fastapi import APIRouter, Request

from trimtab.gateway.bodies import CompletionScore, ScoreAnswer, ScoreBody
from trimtab.gateway.desk import AtDesk, check_fit
from trimtab.gateway.problems import Problem
from trimtab.gateway.stream import unless_gone
from trimtab.gateway.visit import Visit
from trimtab.inference import ScoreRequest, Usage
from trimtab.text.chat import ChatFormat

router = APIRouter()


@router.post("/v1/score")
async def score(body: ScoreBody, request: Request, desk: AtDesk) -> ScoreAnswer:
    """Log-probabilities of `completions`, each after the same prompt.

    The prompt is paid for once, and a scored token costs as much as a generated one.
    """
    visit = Visit.of(request, "score", body)
    async with desk.books.accounted(visit):
        prepared = await desk.prepare(visit, body)
        completions = await anyio.to_thread.run_sync(_tokens, prepared.chat, body.completions)
        check_fit(prepared, max(map(len, completions)), "completions")
        total = sum(map(len, completions))
        await desk.books.reserve(visit, len(prepared.prompt), total, least=total)
        assert visit.served is not None
        wanted = ScoreRequest(visit.served.version.hash, prepared.prompt, completions, visit.id)
        scores = await unless_gone(request.receive, prepared.engine.score(wanted))
        visit.usage = Usage(len(prepared.prompt), total)
        await desk.books.close(visit)
    return ScoreAnswer(
        **visit.answered(),
        scores=[
            CompletionScore(
                log_probability=found.total,
                token_log_probabilities=list(found.logprobs),
                tokens=len(found.logprobs),
            )
            for found in scores
        ],
    )


def _tokens(chat: ChatFormat, completions: Sequence[str]) -> tuple[tuple[int, ...], ...]:
    found = tuple(tuple(chat.tokenizer.encode(text)) for text in completions)
    for place, tokens in enumerate(found):
        if not tokens:
            raise Problem(422, "invalid_request", f"completions.{place}: has no tokens")
    return found
