"""What every request passes first: its trace, its key, and the limit on its body.

The door is closed unless a path is named open, so that a new route cannot be open by accident.
"""

import time
from collections.abc import Iterable, Mapping, MutableMapping
from typing import Any, Protocol

from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from trimtab.errors import TrimtabError
from trimtab.gateway import problems
from trimtab.gateway.drain import Drain
from trimtab.gateway.keys import Key
from trimtab.gateway.offline.files import FILE_BYTES
from trimtab.gateway.problems import Problem
from trimtab.gateway.telemetry.refusals import Refusals
from trimtab.gateway.telemetry.tracing import Trace

OPEN = frozenset({"/healthz", "/readyz"})
SCOPE_OF = {
    "/v1/generate": "generate",
    "/v1/stream": "generate",
    "/v1/chat/completions": "generate",
    "/v1/completions": "generate",
    "/v1/score": "score",
    "/v1/embeddings": "embed",
    "/v1/models": "models",
    "/v1/files": "batches",
    "/v1/batches": "batches",
    "/metrics": "metrics",
}
# By what the log and the metrics call them, where it is not as the path has it.
ROUTES = {"/v1/chat/completions": "chat.completions"}
# Paths below these need what they need.
PARENTS = ("/v1/models", "/v1/files", "/v1/batches")
PAID = frozenset(
    {
        "/v1/generate",
        "/v1/score",
        "/v1/chat/completions",
        "/v1/completions",
        "/v1/embeddings",
    }
)
STARTS = ("http.response.start", "websocket.http.response.start", "websocket.accept")
BODY_LIMIT = 1024 * 1024
# A file, and what its form is wrapped in.
UPLOAD_LIMIT = FILE_BYTES + 64 * 1024


Headers = Mapping[bytes, bytes]


class Lock(Protocol):
    """Tells whose secret this is; None where it is nobody's. Raises StoreError.

    `looked_at_again`: whether the key is checked once more before anything is done or told.
    """

    async def __call__(self, presented: str, looked_at_again: bool) -> Key | None: ...


class Door:
    """ASGI middleware. Leaves `trace`, `trace_id`, `arrived` and `key` in the request's state, and
    finds there what became of it: its `visit`, or the problem by which it was `refused`."""

    def __init__(self, app: ASGIApp, lock: Lock, drain: Drain, refusals: Refusals) -> None:
        self._app = app
        self._lock = lock
        self._drain = drain
        self._refusals = refusals

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        # The first of each name counts, as it does for the framework.
        headers: Headers = dict(reversed(scope["headers"]))
        trace = Trace.of_header(headers.get(b"traceparent", b"").decode("latin-1"))
        state: MutableMapping[str, Any] = scope.setdefault("state", {})
        state.update(trace=trace, trace_id=trace.trace_id, arrived=time.perf_counter(), headers={})

        started = False

        async def traced(message: Message) -> None:
            nonlocal started
            if message["type"] in STARTS:
                started = True
                told = {"traceparent": state["trace"].header, **state["headers"]}
                message = {**message, "headers": _with(message.get("headers", ()), told)}
            await send(message)

        try:
            if scope["path"] not in OPEN:
                key = state["key"] = await self._owner(headers, scope)
                _check_scope(key, scope["path"])
                self._check_open()
            limit = limit_of(scope["path"])
            _check_length(headers, limit)
        except (TrimtabError, Problem) as error:
            problem = problems.noted(error, trace.trace_id)
            refusal = problems.response(problem, trace.trace_id, path=scope["path"])
            state["refused"] = problem
            self._note(scope)
            # Before a WebSocket is accepted, this is the answer to its handshake.
            await refusal(scope, receive, traced)
            return
        try:
            await self._app(scope, _limited(receive, limit), traced)
        except Exception as error:
            # The server's own log would quote the error, and an error may quote a prompt.
            problem = state["refused"] = problems.noted(error, state["trace_id"])
            if not started:
                answer = problems.response(problem, state["trace_id"], path=scope["path"])
                await answer(scope, receive, traced)
        finally:
            self._note(scope)

    def _note(self, scope: Scope) -> None:
        refused = scope["state"].get("refused")
        if refused is not None and scope["path"] not in OPEN:
            self._refusals.note(scope["state"], route_of(scope["path"]), refused)

    def _check_open(self) -> None:
        if self._drain.begun.is_set():
            raise Problem(503, "stopping", "the server is stopping; try again", retryable=True)

    async def _owner(self, headers: Headers, scope: Scope) -> Key:
        given = headers.get(b"authorization", b"").decode("latin-1")
        scheme, _, presented = given.partition(" ")
        if scheme.lower() != "bearer" or not presented:
            raise Problem(401, "no_key", "send a key: 'Authorization: Bearer KEY'")
        again = scope["type"] == "http" and scope["path"] in PAID
        # A replay is told without a hold.
        again = again and b"idempotency-key" not in headers
        key = await self._lock(presented.strip(), again)
        if key is None:
            raise Problem(401, "wrong_key", "this key is unknown, expired or revoked")
        return key


def _check_scope(key: Key, path: str) -> None:
    scope = scope_of(path)
    if scope is not None and scope not in key.scopes:
        raise Problem(403, "wrong_scope", f"this key has no scope '{scope}'")


def scope_of(path: str) -> str | None:
    """The scope that a path needs; None for one that does not exist."""
    parent = next((known for known in PARENTS if path.startswith(f"{known}/")), path)
    return SCOPE_OF.get(parent)


def route_of(path: str) -> str:
    """What the log and the metrics call a path: one of few names, whatever was asked for."""
    parent = next((known for known in PARENTS if path.startswith(f"{known}/")), path)
    if parent not in SCOPE_OF:
        return "unknown"
    return ROUTES.get(parent, parent.rpartition("/")[2])


def limit_of(path: str) -> int:
    """How many bytes a body may hold."""
    return UPLOAD_LIMIT if path == "/v1/files" else BODY_LIMIT


def _with(
    headers: Iterable[tuple[bytes, bytes]], told: Mapping[str, str]
) -> list[tuple[bytes, bytes]]:
    """The headers of an answer, and those that are told in place of what it had."""
    more = {name.lower().encode("latin-1"): value for name, value in told.items()}
    kept = [header for header in headers if header[0].lower() not in more]
    return [*kept, *((name, value.encode("latin-1")) for name, value in more.items())]


def _check_length(headers: Headers, limit: int) -> None:
    declared = headers.get(b"content-length", b"0").decode("latin-1")
    if not declared.isdecimal():
        raise Problem(400, "invalid_request", "content-length: not a number")
    if len(declared) > len(str(limit)) or int(declared) > limit:
        raise Problem(413, "body_too_large", f"the body may hold {limit} bytes")


def _limited(receive: Receive, limit: int) -> Receive:
    """Counts what really comes: a chunked body declares no length."""
    received = 0

    async def limited() -> Message:
        nonlocal received
        message = await receive()
        received += len(message.get("body", b""))
        if received > limit:
            # The framework lets its own exception alone pass while it reads a body.
            raise HTTPException(413, f"the body may hold {limit} bytes")
        return message

    return limited
