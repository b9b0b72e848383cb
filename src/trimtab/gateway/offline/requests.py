"""The lines of an uploaded file: one JSON object each, checked before any of them is accepted."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, BinaryIO, Literal

from pydantic import Field, ValidationError

from trimtab.canonical import canonical_json
from trimtab.gateway.bodies import Body, Label, PlainObject
from trimtab.gateway.entrance import unfit
from trimtab.gateway.offline.bodies import Route
from trimtab.gateway.offline.endpoints import ENDPOINTS, Task
from trimtab.gateway.problems import Problem

LINES = 50_000
# As OpenAI has it; an answer holds some kilobytes for each.
VECTORS = 50_000
LINE_BYTES = 1024 * 1024


class Request(Body):
    """A line as OpenAI documents it: https://platform.openai.com/docs/guides/batch"""

    custom_id: Annotated[Label, Field(min_length=1, max_length=256)]
    method: Literal["POST"]
    url: Route
    body: PlainObject

    def task(self) -> Task:
        """The body as its route reads it. Raises ValidationError."""
        endpoint = ENDPOINTS[self.url]
        return endpoint.task(endpoint.body.model_validate(self.body))


@dataclass(frozen=True, slots=True)
class RawLine:
    """Where a line lies in its blob, and its bytes without the end of the line."""

    offset: int
    length: int
    data: bytes


class Checked:
    """Passes the lines of an upload on while it checks them; then `lines` and `endpoint` are known.

    Every line must be a request that its route would take, all of them for one route, no
    `custom_id` twice. What a model makes of it is found out later. Raises Problem with the number
    of the line.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._seen: set[str] = set()
        self._vectors = 0
        self.lines = 0
        self.size = 0
        self.endpoint: str | None = None

    def __iter__(self) -> Iterator[bytes]:
        number = 0
        while line := self._file.readline(LINE_BYTES + 1):
            number += 1
            self.size += len(line)
            if len(line) > LINE_BYTES:
                raise _unfit(number, f"is longer than {LINE_BYTES} bytes")
            if line.strip():
                self._check(number, line)
            yield line
        if not self.lines:
            raise Problem(422, "invalid_request", "file: holds no requests")

    def _check(self, number: int, line: bytes) -> None:
        self.lines += 1
        if self.lines > LINES:
            raise _unfit(number, f"a file may hold {LINES} requests")
        request = _read(number, line)
        try:
            task = request.task()
        except ValidationError as error:
            model = ENDPOINTS[request.url].body
            raise _unfit(number, f"body.{_first(error, model)}") from None
        if getattr(task.asked, "stream", False):
            raise _unfit(number, "body.stream: a batch does not stream")
        self._vectors += task.vectors
        if self._vectors > VECTORS:
            raise _unfit(number, f"body.input: a file may ask for {VECTORS} embeddings")
        if request.custom_id in self._seen:
            raise _unfit(number, f"custom_id: '{request.custom_id}' stands twice")
        if self.endpoint not in (None, request.url):
            raise _unfit(number, f"url: is {request.url}, and the lines before {self.endpoint}")
        self._seen.add(request.custom_id)
        self.endpoint = request.url


def read(line: str | bytes) -> Request:
    """A line that was checked before."""
    return Request.model_validate_json(line)


def payload(request: Request) -> str:
    """The line as text, for a dead letter."""
    return canonical_json(request.model_dump()).decode()


def next_lines(path: Path, offset: int, most: int) -> Iterable[RawLine]:
    """Up to `most` lines that are not blank, from a place in a blob on."""
    found: list[RawLine] = []
    with path.open("rb") as file:
        file.seek(offset)
        while len(found) < most and (line := file.readline()):
            if line.strip():
                found.append(RawLine(offset, len(line), line))
            offset += len(line)
    return found


def line_at(path: Path, offset: int, length: int) -> bytes:
    with path.open("rb") as file:
        file.seek(offset)
        return file.read(length)


def _read(number: int, line: bytes) -> Request:
    try:
        return Request.model_validate_json(line)
    except ValidationError as error:
        raise _unfit(number, _first(error, Request)) from None


def _first(error: ValidationError, model: type[Any]) -> str:
    return unfit.of_body(error.errors(include_url=False), model).detail


def _unfit(number: int, what: str) -> Problem:
    return Problem(422, "invalid_request", f"line {number}: {what}")
