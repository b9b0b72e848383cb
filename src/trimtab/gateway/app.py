"""The gateway as one ASGI application.

Reading order: `door` (who comes in), `straight` (to the route), `desk` (from a body to tokens),
`books` (hold and settlement), `generate` and `score` (the work), `stream` (events on the wire).
"""

import logging
import os
from typing import TYPE_CHECKING

from fastapi import APIRouter, Depends, FastAPI
from fastapi.exceptions import RequestValidationError
from fastapi.security import HTTPBearer
from starlette.exceptions import HTTPException
from starlette.types import Receive, Scope, Send

import trimtab
from trimtab.errors import TrimtabError
from trimtab.gateway import document, embeddings, generate, health, models, problems, score
from trimtab.gateway.billing.books import Books
from trimtab.gateway.catalogue import Catalogue, Ready
from trimtab.gateway.desk import Desk
from trimtab.gateway.drain import Drain
from trimtab.gateway.encoders import Encoders, Encodes
from trimtab.gateway.entrance import unfit
from trimtab.gateway.entrance.door import PAID, Door
from trimtab.gateway.entrance.doorkeeper import Doorkeeper
from trimtab.gateway.entrance.straight import Straight
from trimtab.gateway.off_loop import OffLoop
from trimtab.gateway.offline import routes as batch_routes
from trimtab.gateway.offline import uploads
from trimtab.gateway.offline.worker import Worker
from trimtab.gateway.openai import routes as openai
from trimtab.gateway.problems import Problem
from trimtab.gateway.streams import conversation
from trimtab.gateway.streams.live import Lives
from trimtab.gateway.telemetry import measured
from trimtab.gateway.telemetry.refusals import Refusals
from trimtab.gateway.tiers.upstream import Upstreams
from trimtab.store.blobs import Blobs
from trimtab.store.database import Database

if TYPE_CHECKING:
    from trimtab.gateway.telemetry.spans import Spans

log = logging.getLogger(__name__)
_ROUTERS = (
    generate.router,
    score.router,
    models.router,
    openai.router,
    embeddings.router,
    uploads.router,
    batch_routes.router,
    measured.router,
)


def create_app(
    database: Database, ready: Ready, content: Blobs, encodes: Encodes | None = None
) -> FastAPI:
    """The inference API. `ready` hands over an engine that holds a version; it may raise.
    `content` keeps the files of users. `encodes` hands over the engine of an encoder, where
    encoders are served at all.

    Batches are worked once `app.state.worker` is started in the loop that serves.
    """
    off_loop, spans = OffLoop(database), _spans()
    books = Books(database, spans)
    app = _Gateway(
        title="Trimtab",
        version=trimtab.__version__,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
    )
    desk = app.state.desk = Desk(
        off_loop,
        Catalogue(off_loop, ready),
        Encoders(off_loop, encodes),
        books,
        Upstreams(),
        Lives(drain := Drain()),
        drain,
        content,
        refusals := Refusals(off_loop, books.metrics, spans),
    )
    app.state.worker = Worker(desk, database)
    app.include_router(health.router)
    # A handshake carries its key as any request does; the document knows HTTP routes alone.
    app.include_router(conversation.router)
    app.include_router(_locked(*_ROUTERS))

    routes = [route for router in _ROUTERS for route in router.routes]
    for kind in (TrimtabError, Problem):
        app.add_exception_handler(kind, problems.on_error)
    app.add_exception_handler(RequestValidationError, unfit.on_invalid)
    app.add_exception_handler(HTTPException, problems.on_http)
    # Before all of the framework's own layers, which they need nothing of.
    inner = Straight(app.build_middleware_stack(), desk, routes, PAID)
    app.middleware_stack = Door(inner, Doorkeeper(off_loop), drain, refusals)
    document.describe(app)
    return app


class _Gateway(FastAPI):
    """Goes to its layers at once. The framework would look first whether it shall measure and trace
    the request, which is done here by the books."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        assert self.middleware_stack is not None
        scope["app"] = self
        await self.middleware_stack(scope, receive, send)


def _spans() -> "Spans | None":
    """Where the standard variables name a collector; elsewhere OpenTelemetry is not even loaded
    (https://opentelemetry.io/docs/specs/otel/protocol/exporter/)."""
    named = any(
        os.environ.get(f"OTEL_EXPORTER_OTLP_{name}") for name in ("ENDPOINT", "TRACES_ENDPOINT")
    )
    off = os.environ.get("OTEL_SDK_DISABLED", "").lower() == "true"
    if not named or off or os.environ.get("OTEL_TRACES_EXPORTER") == "none":
        return None
    try:
        from trimtab.gateway.telemetry.spans import Spans
    except ImportError:
        log.warning("no spans are sent: OpenTelemetry is missing; pip install 'trimtab[otel]'")
        return None
    return Spans()


def _locked(*routers: APIRouter) -> APIRouter:
    """Says in the OpenAPI document that these need a key; the door has checked it before."""
    locked = APIRouter(dependencies=[Depends(HTTPBearer(auto_error=False))])
    for router in routers:
        locked.include_router(router)
    return locked
