"""Errors as `application/problem+json` (RFC 9457), each with a code and whether to retry."""

import asyncio
import logging
import math
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fastapi import Request
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from trimtab.errors import (
    BudgetExceeded,
    DataError,
    EngineError,
    EngineOverloaded,
    HoldClosed,
    IdentityError,
    LedgerError,
    NotFound,
    PriceMissing,
    RequestRefused,
    StorageFull,
    StoreClosed,
    StoreError,
    TrimtabError,
)

log = logging.getLogger(__name__)

# The first class that fits decides: status, code, whether the same request may work later.
_KINDS: tuple[tuple[type[TrimtabError], int, str, bool], ...] = (
    (NotFound, 404, "model_not_found", False),
    (RequestRefused, 422, "request_refused", False),
    (DataError, 422, "invalid_request", False),
    (EngineOverloaded, 503, "overloaded", True),
    (EngineError, 503, "engine_unavailable", True),
    (IdentityError, 503, "identity_mismatch", False),
    (BudgetExceeded, 402, "budget_exceeded", False),
    (PriceMissing, 503, "no_price", False),
    (HoldClosed, 503, "hold_expired", True),
    (LedgerError, 503, "ledger_unavailable", True),
    (StorageFull, 503, "storage_full", True),
    (StoreError, 503, "store_unavailable", True),
    (StoreClosed, 503, "store_unavailable", True),
)
# What went wrong inside is for the log: it may name paths and hosts of ours.
_DISCREET = {
    "engine_unavailable": "the engine of this model cannot be reached; try again",
    "identity_mismatch": "the files of this model are not what was registered",
    "no_price": "this model has no price, and cannot be asked before its operator sets one",
    "hold_expired": "the request waited too long, and what it had used was spent; try again",
    "ledger_unavailable": "the ledger cannot take this request; nothing was spent",
    "storage_full": "the server has no room to account for this request; try again later",
    "store_unavailable": "the server cannot account for this request at the moment; try again",
}
_HTTP_CODES = {
    404: "not_found",
    405: "method_not_allowed",
    413: "body_too_large",
}
OPENAI = (
    "/v1/chat/completions",
    "/v1/completions",
    "/v1/embeddings",
    "/v1/files",
    "/v1/batches",
)
_OPENAI_KINDS = {
    401: "authentication_error",
    402: "insufficient_quota",
    403: "permission_error",
    429: "rate_limit_error",
}
RETRY_AFTER_S = 1

SCHEMA: dict[str, Any] = {
    "type": "object",
    "required": ["type", "title", "status", "detail", "code", "retryable", "trace_id"],
    "properties": {
        "type": {"type": "string"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string"},
        "code": {"type": "string"},
        "retryable": {"type": "boolean"},
        "trace_id": {"type": "string"},
    },
}


OPENAI_SCHEMA: dict[str, Any] = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type", "param", "code", "retryable", "trace_id"],
            "properties": {
                "message": {"type": "string"},
                "type": {"type": "string"},
                "param": {"type": ["string", "null"]},
                "code": {"type": "string"},
                "retryable": {"type": "boolean"},
                "trace_id": {"type": "string"},
            },
        }
    },
}


class Problem(Exception):
    """An answer that is not 200. `detail` names the field or the cause; it never holds a secret."""

    def __init__(
        self,
        status: int,
        code: str,
        detail: str,
        *,
        retryable: bool = False,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(detail)
        self.headers = dict(headers or {})
        self.status = status
        self.code = code
        self.detail = detail
        self.retryable = retryable


class ClientGone(Problem):
    """Nobody reads any more. 499, nginx's code for it, stands in the log alone."""

    def __init__(self, detail: str) -> None:
        super().__init__(499, "client_gone", detail)


class LeaseLost(Problem):
    """Somebody else does this work by now: what was done here is nobody's."""

    def __init__(self) -> None:
        super().__init__(409, "lease_lost", "another process has taken this work over")


def of(error: BaseException) -> Problem:
    """The problem that an error becomes on the wire."""
    if isinstance(error, Problem):
        return error
    if isinstance(error, TrimtabError):
        return _of_ours(error)
    if isinstance(error, asyncio.CancelledError):
        return Problem(503, "stopping", "the server is stopping; try again", retryable=True)
    return Problem(500, "internal_error", "an internal error; the server's log has its trace_id")


def noted(error: BaseException, trace_id: str) -> Problem:
    """The problem of an error; what is our fault is logged, since the client hears less of it."""
    problem = of(error)
    if problem.code == "internal_error":
        log_fault(error, trace_id)
        return problem
    # "Not ready" is what a readiness probe asks for, many times a start; it is no fault.
    if problem.status >= 500 and problem.code != "not_ready":
        log.warning("trace %s: %s: %s", trace_id, problem.code, error)
    return problem


def _of_ours(error: TrimtabError) -> Problem:
    detail = f"{error.message} - {error.hint}" if error.hint else error.message
    for kind, status, code, retryable in _KINDS:
        if isinstance(error, kind):
            headers = None
            if isinstance(error, EngineOverloaded):
                headers = {"Retry-After": str(math.ceil(error.retry_s))}
            told = _DISCREET.get(code, detail)
            return Problem(status, code, told, retryable=retryable, headers=headers)
    return Problem(500, "internal_error", "an internal error; the server's log has its trace_id")


def body(problem: Problem, trace_id: str) -> dict[str, Any]:
    return {
        "type": f"urn:trimtab:{problem.code}",
        "title": problem.code.replace("_", " "),
        "status": problem.status,
        # It may quote what came in, and a name of JSON need not be text that UTF-8 can hold.
        "detail": problem.detail.encode(errors="replace").decode(),
        "code": problem.code,
        "retryable": problem.retryable,
        "trace_id": trace_id,
    }


def response(
    problem: Problem, trace_id: str, headers: Mapping[str, str] | None = None, path: str = ""
) -> JSONResponse:
    """On the routes that OpenAI's clients call, OpenAI's error object; else RFC 9457."""
    more = {"Retry-After": str(RETRY_AFTER_S)} if problem.retryable else {}
    more |= problem.headers
    if problem.status == 401:
        more["WWW-Authenticate"] = "Bearer"
    more = {**(headers or {}), **more}
    if speaks_openai(path):
        # Their clients know a body that does not fit by 400.
        status = 400 if problem.status == 422 else problem.status
        return JSONResponse(openai_body(problem, trace_id), status_code=status, headers=more)
    return JSONResponse(
        body(problem, trace_id),
        status_code=problem.status,
        headers=more,
        media_type="application/problem+json",
    )


def speaks_openai(path: str) -> bool:
    """Whether OpenAI's clients call this path."""
    return any(path == known or path.startswith(f"{known}/") for known in OPENAI)


def openai_body(problem: Problem, trace_id: str) -> dict[str, Any]:
    """https://platform.openai.com/docs/guides/error-codes"""
    told = body(problem, trace_id)
    field, colon, _ = told["detail"].partition(": ")
    named = bool(colon) and problem.status in (400, 422) and " " not in field
    kind = _OPENAI_KINDS.get(problem.status)
    kind = kind or ("invalid_request_error" if problem.status < 500 else "server_error")
    return {
        "error": {
            "message": told["detail"],
            "type": kind,
            "param": field if named else None,
            "code": problem.code,
            "retryable": problem.retryable,
            "trace_id": trace_id,
        }
    }


def trace_id_of(request: Request) -> str:
    return str(request.state.trace_id)


async def on_error(request: Request, error: Exception) -> JSONResponse:
    """Problems, and errors of our own tree."""
    trace_id = trace_id_of(request)
    return refused(request, noted(error, trace_id))


async def on_http(request: Request, error: Exception) -> JSONResponse:
    """What the framework itself refuses: unknown paths and methods, bodies it cannot read."""
    assert isinstance(error, HTTPException)
    code = _HTTP_CODES.get(error.status_code, "invalid_request")
    problem = Problem(error.status_code, code, _unreadable(error) or str(error.detail))
    return refused(request, problem, error.headers)


def refused(
    request: Request, problem: Problem, headers: Mapping[str, str] | None = None
) -> JSONResponse:
    """The answer; whoever notes what was refused finds the problem in the request's state."""
    request.state.refused = problem
    return response(problem, trace_id_of(request), headers, request.url.path)


def _unreadable(error: HTTPException) -> str:
    cause = error.__cause__
    if isinstance(cause, UnicodeDecodeError):
        return f"body: not UTF-8 at byte {cause.start}"
    if isinstance(cause, RecursionError):
        return "body: nested too deeply"
    return "body: cannot be read" if error.status_code == 400 else ""


def log_fault(error: BaseException, trace_id: str) -> None:
    """A bug of ours: where it happened. Not what it said, which may quote a prompt."""
    frames = traceback.extract_tb(error.__traceback__)
    where = " < ".join(f"{Path(at.filename).name}:{at.lineno}" for at in reversed(frames[-8:]))
    log.error("trace %s: internal error: %s at %s", trace_id, type(error).__name__, where)
