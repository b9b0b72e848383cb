"""What the sender of a body hears that does not fit: its first fault, by the name of its field.

Knows pydantic's errors, and which of several kinds of a field was meant.
"""

import difflib
from collections.abc import Mapping, Sequence
from typing import Any

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel

from trimtab.gateway.problems import Problem, refused


async def on_invalid(request: Request, error: Exception) -> JSONResponse:
    """A body that does not fit: the first fault, with the name of its field."""
    assert isinstance(error, RequestValidationError)
    problem = _unfit(error.errors(), _known_fields(request), error.body)
    return refused(request, problem)


def of_body(errors: Sequence[Mapping[str, Any]], model: type[BaseModel]) -> Problem:
    """The problem of a body that no route has read."""
    return _unfit(errors, list(model.model_fields), None)


def _unfit(errors: Sequence[Mapping[str, Any]], known: list[str], given: Any) -> Problem:
    return Problem(422, "invalid_request", _fault(_telling(errors, given), known, given))


def _telling(errors: Sequence[Mapping[str, Any]], given: Any) -> Mapping[str, Any]:
    """The first error; where every kind that would have fitted brings its own, the one that came
    the furthest."""
    first = errors[0]
    place = _place(first, given)
    if len(place) == len(_inside(first)):
        return first
    same = [error for error in errors if _place(error, given)[: len(place)] == place]
    return max(same, key=lambda error: len(_place(error, given)))


def _inside(error: Mapping[str, Any]) -> list[Any]:
    return [*error["loc"][error["loc"][:1] == ("body",) :]]


def _place(error: Mapping[str, Any], given: Any) -> list[Any]:
    """Where in the body that was `given` an error is; pydantic also names the kinds it tried."""
    parts = _inside(error)
    if not isinstance(given, dict):
        return parts
    found: list[Any] = []
    for part in parts:
        inside = isinstance(given, dict) and part in given
        inside |= isinstance(given, list) and isinstance(part, int) and part < len(given)
        if inside:
            given = given[part]
            found.append(part)
    return [*found, parts[-1]] if error["type"] == "missing" else found


def _fault(error: Mapping[str, Any], known: list[str], given: Any) -> str:
    if error["type"] == "json_invalid":
        at = _inside(error)
        where = f" at character {at[0]}: {error['ctx']['error']}" if at else ""
        return f"body: not JSON{where}"
    place = _place(error, given)
    field = ".".join(str(part) for part in place)[:128] or "body"
    if error["type"] == "extra_forbidden":
        near = difflib.get_close_matches(str(place[-1])[:64], known, n=1)
        return f"{field}: unknown field" + (f"; did you mean '{near[0]}'?" if near else "")
    if not place and isinstance(given, bytes):
        return "body: not said to be JSON; send the header Content-Type: application/json"
    if error["type"] == "model_attributes_type":
        return f"{field}: not an object"
    message = str(error["msg"]).removeprefix("Value error, ")
    return f"{field}: {message[:1].lower()}{message[1:]}"


def _known_fields(request: Request) -> list[str]:
    body_field = getattr(request.scope.get("route"), "body_field", None)
    model = getattr(getattr(body_field, "field_info", None), "annotation", None)
    return list(getattr(model, "model_fields", {}))
