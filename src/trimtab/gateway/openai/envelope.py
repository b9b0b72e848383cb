"""What stands around every answer, and around every piece of a stream, on OpenAI's routes."""

import json
from typing import Any, Literal

from pydantic import BaseModel

from trimtab.canonical import canonical_json
from trimtab.gateway import problems
from trimtab.gateway.bodies import Choice
from trimtab.gateway.openai.bodies import CachedTokens, Envelope, OpenAIUsage
from trimtab.gateway.problems import Problem
from trimtab.gateway.visit import Visit

_quoted = json.JSONEncoder(ensure_ascii=False).encode


class Mold:
    """The pieces of a stream differ in their text alone: what is around it is written once."""

    # Of what no name may hold, so that it stands in a piece once.
    MARK = "\x00"

    def __init__(self, marked: Envelope) -> None:
        around = event_of(marked)
        self._head, self._tail = around.split(_written(self.MARK))

    def event(self, text: str, beside: bytes = b"") -> bytes:
        """A piece; `beside` its text may stand what it has more."""
        return self._head + _written(text) + beside + self._tail


class Theirs:
    """Events without names, ended by [DONE]."""

    def event(self, event: str, data: BaseModel, mark: int | None) -> bytes:
        if event == "end":
            return b"data: [DONE]\n\n"
        return event_of(data)

    def error(self, problem: Problem, trace_id: str) -> bytes:
        told = canonical_json(problems.openai_body(problem, trace_id))
        return b"data: " + told + b"\n\n"


def bare(visit: Visit, kind: str) -> dict[str, Any]:
    """What every piece of a stream has; `kind` is OpenAI's name for it."""
    return {
        "id": visit.id,
        "object": kind,
        "created": visit.begun_s,
        "model": visit.model,
        "system_fingerprint": visit.answering_version,
    }


def around(visit: Visit, kind: str) -> dict[str, Any]:
    """What a whole answer has beside its choices: its usage, who answered and at what cost."""
    usage = visit.usage
    return {
        **bare(visit, kind),
        "usage": OpenAIUsage(
            prompt_tokens=usage.prompt,
            completion_tokens=usage.completion,
            total_tokens=usage.prompt + usage.completion,
            prompt_tokens_details=CachedTokens(cached_tokens=usage.cached),
        ),
        "trimtab": _told(visit),
    }


def closing(last: Envelope, visit: Visit) -> Envelope:
    """A stream says who answered and at what cost, whether or not its client asks for its usage."""
    last.trimtab = _told(visit)
    return last


def _told(visit: Visit) -> dict[str, Any]:
    told = visit.answered()
    return {name: value for name, value in told.items() if name not in ("usage", "id")}


def end_of(choice: Choice) -> Literal["stop", "length"]:
    """Why an answer ended, in OpenAI's words."""
    return "length" if choice.finish_reason == "length" else "stop"


def event_of(data: BaseModel) -> bytes:
    """A piece leaves out what it has not; a choice's finish_reason is null until it has one."""
    found = data.model_dump(exclude_none=True)
    for choice in found.get("choices", []):
        choice.setdefault("finish_reason", None)
    return b"data: " + canonical_json(found) + b"\n\n"


def _written(text: str) -> bytes:
    return _quoted(text).encode()
