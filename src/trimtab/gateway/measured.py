"""`GET /metrics`: for Prometheus, with a key that has the scope `metrics`."""

from fastapi import APIRouter
from starlette.responses import PlainTextResponse

from trimtab.gateway.desk import AtDesk
from trimtab.gateway.metrics import CONTENT_TYPE

router = APIRouter()


@router.get("/metrics", response_class=PlainTextResponse)
async def metrics(desk: AtDesk) -> PlainTextResponse:
    """Counters, histograms and gauges of this gateway process."""
    breakers = [
        ((("tier", tier), ("version", version[:12])), int(state != "closed"))
        for (tier, version), state in sorted(desk.upstreams.states().items())
    ]
    text = desk.books.metrics.text(
        {
            "trimtab_breaker_open": breakers,
            "trimtab_requests_in_flight": [((), desk.books.in_flight)],
        }
    )
    return PlainTextResponse(text, media_type=CONTENT_TYPE)
