"""`GET /metrics`: for Prometheus, with a key that has the scope `metrics`."""

from collections.abc import Mapping

from fastapi import APIRouter
from starlette.responses import PlainTextResponse

from trimtab.errors import TrimtabError
from trimtab.gateway.desk import AtDesk, Desk
from trimtab.gateway.offline import batches
from trimtab.gateway.telemetry.metrics import CONTENT_TYPE
from trimtab.journal import dead_letters

router = APIRouter()


@router.get("/metrics", response_class=PlainTextResponse)
async def metrics(desk: AtDesk) -> PlainTextResponse:
    """Counters, histograms and gauges of this gateway process, and what waits in the home."""
    breakers = [
        ((("tier", tier), ("version", version[:12])), int(state != "closed"))
        for (tier, version), state in sorted(desk.upstreams.states().items())
    ]
    standing, letters = await _waiting(desk)
    text = desk.books.metrics.text(
        {
            "trimtab_batches": [
                ((("status", status),), count) for status, count in sorted(standing.items())
            ],
            "trimtab_dead_letters": [
                ((("source", source), ("reason", reason), ("state", state)), count)
                for (source, reason, state), count in sorted(letters.items())
            ],
            "trimtab_breaker_open": breakers,
            "trimtab_requests_in_flight": [((), desk.books.in_flight)],
        }
    )
    return PlainTextResponse(text, media_type=CONTENT_TYPE)


async def _waiting(desk: Desk) -> tuple[Mapping[str, int], Mapping[tuple[str, str, str], int]]:
    """Batches and dead letters; none where the store cannot be read, which is when somebody looks
    at the other figures."""
    try:
        return await desk.database.read(lambda c: (batches.counts(c), dead_letters.counts(c)))
    except TrimtabError:
        return {}, {}
