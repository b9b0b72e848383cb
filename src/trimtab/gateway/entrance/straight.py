"""The straight way to the routes that work is paid on.

A framework looks for the route among all, resolves what its function depends on and stacks contexts
around it: more than everything else that the gateway does for a request. Here one look-up finds the
route, whose signature the framework has read once. What a body must look like, what an unfit one
hears and what the OpenAPI document says are the same as on the framework's own way.
"""

import email.message
import json
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any

from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from pydantic import BaseModel, TypeAdapter, ValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute
from starlette.types import ASGIApp, Receive, Scope, Send

from trimtab.errors import TrimtabError
from trimtab.gateway import problems
from trimtab.gateway.desk import Desk
from trimtab.gateway.entrance import unfit
from trimtab.gateway.problems import Problem

# No body at all; JSON's null is one.
_NOTHING = object()


class Straight:
    """ASGI middleware. Serves the POST of `paths` among `routes`, and leaves the rest to the app.

    Their functions take a body, the request, the desk and headers, and nothing else.
    """

    def __init__(
        self, app: ASGIApp, desk: Desk, routes: Iterable[BaseRoute], paths: Iterable[str]
    ) -> None:
        known = {route.path: route for route in routes if isinstance(route, APIRoute)}
        self._app = app
        self._endpoints = {path: _Endpoint(known[path], desk) for path in paths}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        endpoint = None
        if scope["type"] == "http" and scope["method"] == "POST":
            endpoint = self._endpoints.get(scope["path"])
        if endpoint is None:
            await self._app(scope, receive, send)
            return
        request = Request(scope, receive)
        try:
            response = await endpoint(request)
        except (TrimtabError, Problem) as error:
            response = await problems.on_error(request, error)
        except RequestValidationError as error:
            response = await unfit.on_invalid(request, error)
        except HTTPException as error:
            response = await problems.on_http(request, error)
        await response(scope, receive, send)


class _Endpoint:
    """The function of one route, and what has to be handed to it."""

    def __init__(self, route: APIRoute, desk: Desk) -> None:
        signature = route.dependant
        [body], [at_desk] = signature.body_params, signature.dependencies
        self._route = route
        self._call: Callable[..., Awaitable[Response | BaseModel]] = route.endpoint
        model: type[BaseModel] = body.field_info.annotation  # type: ignore[assignment]
        self._fits = TypeAdapter(model)
        self._body, self._request = body.name, signature.request_param_name or "request"
        self._headers = {field.name: field.alias for field in signature.header_params}
        self._given: Mapping[str, Any] = {at_desk.name or "desk": desk}

    async def __call__(self, request: Request) -> Response:
        # Where the handler of unfit bodies looks for the names of its fields.
        request.scope["route"] = self._route
        told = await self._call(
            **self._given,
            **{self._body: self._read(await _json(request)), self._request: request},
            **{name: request.headers.get(header) for name, header in self._headers.items()},
        )
        if isinstance(told, Response):
            return told
        return Response(told.model_dump_json(), media_type="application/json")

    def _read(self, given: Any) -> BaseModel:
        """Raises RequestValidationError."""
        if given is _NOTHING:
            missing = {"type": "missing", "loc": ("body",), "msg": "Field required", "input": None}
            raise RequestValidationError([missing], body=None)
        try:
            return self._fits.validate_python(given, from_attributes=True)
        except ValidationError as error:
            found = error.errors(include_url=False)
            errors = [{**each, "loc": ("body", *each["loc"])} for each in found]
            raise RequestValidationError(errors, body=given) from error


async def _json(request: Request) -> Any:
    """The body; its bytes where it is not said to be JSON, and _NOTHING where there is none.

    Raises RequestValidationError where it is no JSON, and HTTPException where it cannot be read.
    """
    try:
        body = await request.body()
        if not body:
            return _NOTHING
        return json.loads(body) if _says_json(request) else body
    except json.JSONDecodeError as error:
        place, why = ("body", error.pos), {"error": error.msg}
        fault = {"type": "json_invalid", "loc": place, "msg": "no JSON", "input": {}, "ctx": why}
        raise RequestValidationError([fault], body=error.doc) from error
    except HTTPException:
        raise
    except Exception as error:
        # The client left, the bytes are no text, or they are nested too deeply: the handler tells.
        raise HTTPException(400, "the body cannot be read") from error


def _says_json(request: Request) -> bool:
    said = request.headers.get("content-type", "")
    if said == "application/json" or not said:
        return bool(said)
    message = email.message.Message()
    message["content-type"] = said
    kind = message.get_content_subtype()
    whole = kind == "json" or kind.endswith("+json")
    return message.get_content_maintype() == "application" and whole
