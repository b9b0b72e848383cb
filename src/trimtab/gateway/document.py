"""The OpenAPI document: what the framework knows of the routes, and what only we know.

Errors are `application/problem+json`, on OpenAI's routes OpenAI's object; a route that streams also
answers with events. The WebSocket of `/v1/stream` has no place in OpenAPI and is told in words.
"""

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from trimtab.gateway import problems
from trimtab.gateway.entrance.door import OPEN

ABOUT = """The inference API. `GET /v1/stream` with an upgrade to WebSocket takes the bodies of
`/v1/generate`, one a text frame, and answers each with frames `{"event", "data"}`."""
STREAMS = frozenset({"/v1/generate", "/v1/chat/completions", "/v1/completions"})
# Each event of a stream, as OpenAPI 3.1 and the tools for it have it; 3.2 says `itemSchema`.
EVENTS = {
    "text/event-stream": {
        "schema": {
            "type": "object",
            "required": ["data"],
            "properties": {name: {"type": "string"} for name in ("event", "data", "id")},
        }
    }
}

_PROBLEM = {
    "description": "A problem (RFC 9457)",
    "content": {"application/problem+json": {"schema": problems.SCHEMA}},
}
_OPENAI_ERROR = {
    "description": "An error as OpenAI's clients know it",
    "content": {"application/json": {"schema": problems.OPENAI_SCHEMA}},
}


def describe(app: FastAPI) -> None:
    """Let the application tell this document as its own."""

    def told() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = _document(app)
        return app.openapi_schema

    app.openapi = told  # type: ignore[method-assign]


def _document(app: FastAPI) -> dict[str, Any]:
    document = get_openapi(
        title=app.title, version=app.version, description=ABOUT, routes=app.routes
    )
    for path, operations in document["paths"].items():
        for operation in operations.values():
            _correct(path, operation)
    # The framework's own idea of an unfit body, which is never sent.
    for unused in ("HTTPValidationError", "ValidationError"):
        document.get("components", {}).get("schemas", {}).pop(unused, None)
    return document


def _correct(path: str, operation: dict[str, Any]) -> None:
    responses = operation["responses"]
    responses.pop("422", None)
    responses["default"] = _OPENAI_ERROR if problems.speaks_openai(path) else _PROBLEM
    if path in STREAMS:
        responses["200"]["content"] |= EVENTS
    if path in OPEN:
        operation["security"] = []
