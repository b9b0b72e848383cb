"""The frames between an engine process and its clients: one JSON object a line.

A client opens a call with an `id` that is unique on its connection. Every frame that comes back
carries that id, so many calls share one connection. A call ends with its last frame: the chunk
that has a finish reason, `Scored`, `Embedded`, `Described`, `Done` or `Failed`. `Cancel` ends a
call early and is not answered. Knows nothing of sockets.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal, TypeVar

from pydantic import Field, TypeAdapter, ValidationError

from trimtab import errors
from trimtab.inference import (
    Capabilities,
    Chunk,
    EmbedRequest,
    GenerateRequest,
    Score,
    ScoreRequest,
    Vector,
    VersionFiles,
)

MAX_FRAME = 16 * 2**20
"""Bytes in one frame, the newline included."""


@dataclass(frozen=True, slots=True)
class Generate:
    id: str
    request: GenerateRequest
    kind: Literal["generate"] = "generate"


@dataclass(frozen=True, slots=True)
class ScoreCompletions:
    id: str
    request: ScoreRequest
    kind: Literal["score"] = "score"


@dataclass(frozen=True, slots=True)
class Embed:
    id: str
    request: EmbedRequest
    kind: Literal["embed"] = "embed"


@dataclass(frozen=True, slots=True)
class Load:
    id: str
    files: VersionFiles
    kind: Literal["load"] = "load"


@dataclass(frozen=True, slots=True)
class Unload:
    id: str
    version: str
    kind: Literal["unload"] = "unload"


@dataclass(frozen=True, slots=True)
class Describe:
    id: str
    kind: Literal["describe"] = "describe"


@dataclass(frozen=True, slots=True)
class Cancel:
    id: str
    kind: Literal["cancel"] = "cancel"


@dataclass(frozen=True, slots=True)
class Generated:
    id: str
    chunk: Chunk
    kind: Literal["generated"] = "generated"


@dataclass(frozen=True, slots=True)
class Scored:
    id: str
    scores: tuple[Score, ...]
    kind: Literal["scored"] = "scored"


@dataclass(frozen=True, slots=True)
class Embedded:
    id: str
    vectors: tuple[Vector, ...]
    kind: Literal["embedded"] = "embedded"


@dataclass(frozen=True, slots=True)
class Described:
    id: str
    capabilities: Capabilities
    kind: Literal["described"] = "described"


@dataclass(frozen=True, slots=True)
class Done:
    id: str
    kind: Literal["done"] = "done"


@dataclass(frozen=True, slots=True)
class Failed:
    """`error` names a class of `trimtab.errors`; an empty `id` means the connection itself.
    `retry_s` is that of EngineOverloaded.
    """

    id: str
    error: str
    message: str
    hint: str = ""
    retry_s: float = 1.0
    kind: Literal["failed"] = "failed"

    @classmethod
    def of(cls, id: str, error: errors.TrimtabError) -> "Failed":
        name = type(error).__name__
        if isinstance(error, errors.EngineOverloaded):
            return cls(id, name, error.message, error.hint, error.retry_s)
        return cls(id, name, error.message, error.hint)

    def exception(self) -> errors.TrimtabError:
        """The error as the engine raised it; an unknown name becomes an EngineError."""
        kind = getattr(errors, self.error, None)
        if not (isinstance(kind, type) and issubclass(kind, errors.TrimtabError)):
            kind = errors.EngineError
        if kind is errors.EngineOverloaded:
            return kind(self.message, hint=self.hint, retry_s=self.retry_s)
        return kind(self.message, hint=self.hint)


Call = Generate | ScoreCompletions | Embed | Load | Unload | Describe | Cancel
Reply = Generated | Scored | Embedded | Described | Done | Failed

Frame = TypeVar("Frame")

_CALLS: TypeAdapter[Call] = TypeAdapter(Annotated[Call, Field(discriminator="kind")])
_REPLIES: TypeAdapter[Reply] = TypeAdapter(Annotated[Reply, Field(discriminator="kind")])
_MANY: TypeAdapter[list[Annotated[Reply, Field(discriminator="kind")]]] = TypeAdapter(
    list[Annotated[Reply, Field(discriminator="kind")]]
)


def encode_call(call: Call) -> bytes:
    return _CALLS.dump_json(call) + b"\n"


def encode_reply(reply: Reply) -> bytes:
    return _REPLIES.dump_json(reply) + b"\n"


def decode_call(line: bytes) -> Call:
    """Raises RequestRefused where the line is not a call, and says which field is wrong."""
    return _decode(_CALLS, line)


def decode_reply(line: bytes) -> Reply:
    """Raises RequestRefused where the line is not a reply."""
    return _decode(_REPLIES, line)


def decode_replies(lines: Sequence[bytes]) -> Iterable[Reply]:
    """Replies that came together, read at once: most of what one costs is paid for all of them.

    Raises RequestRefused at the first line that is not a reply, after those before it.
    """
    try:
        return _MANY.validate_json(b"[" + b",".join(lines) + b"]", strict=True)
    except ValidationError:
        return map(decode_reply, lines)


def _decode(adapter: TypeAdapter[Frame], line: bytes) -> Frame:
    try:
        return adapter.validate_json(line, strict=True)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise errors.RequestRefused(
            f"a frame that cannot be read: {where + ': ' if where else ''}{first['msg']}",
            hint="client and engine must be of one version of trimtab",
        ) from None
