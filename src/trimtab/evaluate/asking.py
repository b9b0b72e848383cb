"""How a suite asks an engine: one timed answer, and many at once within a bound.

Knows nothing of what the answers are worth.
"""

import asyncio
import time
import uuid
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

from trimtab.errors import DataError
from trimtab.inference import (
    Completion,
    Engine,
    GenerateRequest,
    Priority,
    Sampling,
    Score,
    ScoreRequest,
    complete,
)

OnItem = Callable[[], None]
Question = TypeVar("Question")
Reply = TypeVar("Reply")


async def ask(
    engine: Engine,
    version: str,
    prompt: tuple[int, ...],
    max_tokens: int,
    priority: Priority = "batch",
) -> tuple[Completion, float]:
    """The greedy answer, and the milliseconds from asking to its last token."""
    sampling = Sampling(max_tokens=max_tokens)
    request = GenerateRequest(version, prompt, sampling, uuid.uuid4().hex, priority)
    started = time.perf_counter()
    completion = await complete(engine, request)
    return completion, (time.perf_counter() - started) * 1000


async def score_one(
    engine: Engine, version: str, prompt: tuple[int, ...], completion: tuple[int, ...]
) -> Score:
    request = ScoreRequest(version, prompt, (completion,), uuid.uuid4().hex, "batch")
    [score] = await engine.score(request)
    return score


def refuse_silence(suite: str, refusals: Sequence[str], asked: int) -> None:
    """One refused item is that item's failure; raises DataError where all that were asked are."""
    if asked and len(refusals) == asked:
        raise DataError(
            f"{suite}: the engine refuses every item: {refusals[0]}",
            hint="lower evaluate.max_tokens or evaluate.shots, or shorten data.system",
        )


async def in_batches(
    engine: Engine,
    questions: Sequence[Question],
    work: Callable[[Question], Awaitable[Reply]],
    on_item: OnItem | None = None,
) -> list[Reply]:
    """Replies in the order of the questions, with two of the engine's batches in flight.

    One batch computes while the next one waits, so the engine never idles and never overflows.
    """
    return await at_once(questions, work, 2 * (await engine.capabilities()).max_batch, on_item)


async def at_once(
    questions: Sequence[Question],
    work: Callable[[Question], Awaitable[Reply]],
    limit: int,
    on_item: OnItem | None = None,
) -> list[Reply]:
    """Replies in the order of the questions, with at most `limit` of them under way.

    The first error stops the rest and is raised.
    """
    room = asyncio.Semaphore(limit)

    async def one(question: Question) -> Reply:
        async with room:
            reply = await work(question)
        if on_item is not None:
            on_item()
        return reply

    tasks = [asyncio.ensure_future(one(question)) for question in questions]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
