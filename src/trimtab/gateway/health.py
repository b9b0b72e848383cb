"""`GET /healthz`: the process lives. `GET /readyz`: whatever is deployed would be answered."""

import asyncio

from fastapi import APIRouter

from trimtab.errors import TrimtabError
from trimtab.gateway.catalogue import Served
from trimtab.gateway.desk import AtDesk, Desk
from trimtab.gateway.problems import Problem

# Whoever probes waits a second or two; a load that takes longer goes on behind the answer.
READY_S = 1.5

router = APIRouter()


@router.get("/healthz")
async def healthz() -> dict[str, str]:
    return {"status": "alive"}


@router.get("/readyz")
async def readyz(desk: AtDesk) -> dict[str, str]:
    """200 when the database answers, every deployment's live version is loaded and every encoder
    is there, else 503."""
    if desk.drain.begun.is_set():
        raise Problem(503, "not_ready", "the server is stopping", retryable=True)
    try:
        async with asyncio.timeout(READY_S):
            deployed = await desk.catalogue.deployed()
            if any(served is None for _, served in deployed):
                detail = "the live version of a deployment cannot answer"
                raise Problem(503, "not_ready", detail, retryable=True)
            live = {served.hash: served for _, served in deployed if served is not None}
            encoding = [desk.encoders.engine(each) for each in await desk.encoders.all()]
            await asyncio.gather(
                *(_answers(desk, served) for served in live.values()),
                *(engine.capabilities() for engine in encoding),
            )
    except TimeoutError:
        raise Problem(503, "not_ready", "versions are still loading", retryable=True) from None
    except TrimtabError as error:
        detail = "the database or an engine cannot be reached"
        raise Problem(503, "not_ready", detail, retryable=True) from error
    return {"status": "ready"}


async def _answers(desk: Desk, served: Served) -> None:
    """A version that was loaded once may sit in an engine that is gone by now."""
    engine = await desk.catalogue.engine(served)
    await engine.capabilities()
