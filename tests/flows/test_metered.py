"""Whatever a loop asks of an engine is counted, as a gateway would have counted it."""

import asyncio
from contextlib import aclosing

import pytest

from tests.gateway.echo import Echo
from trimtab.errors import EngineUnavailable, VersionNotLoaded
from trimtab.flows.metered import Meter, Metered
from trimtab.inference import (
    GenerateRequest,
    Sampling,
    ScoreRequest,
    Usage,
    complete,
)

ASK = GenerateRequest("v", (1, 2, 3), Sampling(max_tokens=5), "r")


def metered(echo: Echo) -> tuple[Metered, Meter]:
    echo.loaded |= {"v", "w"}
    meter = Meter()
    return Metered(echo, meter), meter


def test_tokens_are_counted_by_version_and_told_of_one_question_at_a_time() -> None:
    engine, meter = metered(Echo())
    told: list[tuple[str, Usage]] = []

    async def go() -> None:
        for _ in range(2):
            await complete(engine, ASK)
        await engine.score(ScoreRequest("w", (1, 2), ((3,), (4, 5)), "s"))

    with meter.telling(lambda version, usage: told.append((version, usage))):
        asyncio.run(go())
        assert meter.used == {"v": Usage(6, 10), "w": Usage(2, 3)}
    assert told == [("v", Usage(3, 5)), ("v", Usage(3, 5)), ("w", Usage(2, 3))]
    assert meter.used == {}


def test_what_failed_or_was_left_counts_as_far_as_it_came() -> None:
    engine, meter = metered(Echo(die_after=2))

    async def left() -> None:
        async with aclosing(engine.generate(ASK)) as chunks:
            await anext(chunks)

    with pytest.raises(EngineUnavailable):
        asyncio.run(complete(engine, ASK))
    asyncio.run(left())
    counted = {"v": Usage(6, 3)}
    assert meter.used == counted
    with pytest.raises(VersionNotLoaded):
        asyncio.run(complete(engine, GenerateRequest("x", (1,), Sampling(max_tokens=5), "r")))
    assert meter.used == counted
