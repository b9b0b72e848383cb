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


def test_tokens_are_counted_by_version_until_they_are_taken() -> None:
    engine, meter = metered(Echo())

    async def go() -> None:
        for _ in range(2):
            await complete(engine, ASK)
        await engine.score(ScoreRequest("w", (1, 2), ((3,), (4, 5)), "s"))

    asyncio.run(go())
    assert meter.take() == {"v": Usage(6, 10), "w": Usage(2, 3)}
    assert meter.take() == {}


def test_what_failed_or_was_left_counts_as_far_as_it_came() -> None:
    engine, meter = metered(Echo(die_after=2))

    async def left() -> None:
        async with aclosing(engine.generate(ASK)) as chunks:
            await anext(chunks)

    with pytest.raises(EngineUnavailable):
        asyncio.run(complete(engine, ASK))
    asyncio.run(left())
    assert meter.take() == {"v": Usage(6, 3)}
    with pytest.raises(VersionNotLoaded):
        asyncio.run(complete(engine, GenerateRequest("x", (1,), Sampling(max_tokens=5), "r")))
    assert meter.take() == {}
