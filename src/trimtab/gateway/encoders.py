"""From the name in a request for embeddings to the encoder that makes them."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from trimtab.errors import DataError, IdentityError, NotFound
from trimtab.gateway.catalogue import FRESH_S, Served
from trimtab.gateway.off_loop import OffLoop
from trimtab.inference import Engine
from trimtab.registry import encoders
from trimtab.registry.encoders import Encoder
from trimtab.store.database import Connection
from trimtab.text.inputs import InputFormat

Encodes = Callable[[Encoder], Engine]


@dataclass(frozen=True, slots=True)
class Encoding:
    """An encoder that may answer. It belongs to no project and to no deployment, and has no lower
    tier."""

    encoder: Encoder
    format: InputFormat
    deployment: None = None
    project: None = None

    @property
    def hash(self) -> str:
        return self.encoder.hash

    @property
    def tier(self) -> Literal["base"]:
        return "base"


Answerer = Served | Encoding


class Encoders:
    """Knows the encoders of a home. `encodes` hands over the engine of one."""

    def __init__(self, database: OffLoop, encodes: Encodes | None) -> None:
        self._database = database
        self._encodes = encodes
        self._known: dict[str, Encoding | IdentityError] = {}
        self._read_at = float("-inf")

    async def find(self, name: str) -> Encoding:
        """The encoder of a name. Raises NotFound, and IdentityError where its files are not what
        was registered."""
        if name not in self._known or time.monotonic() - self._read_at >= FRESH_S:
            await self.all()
        found = self._known.get(name)
        if isinstance(found, IdentityError):
            raise found
        if found is not None:
            return found
        known = ", ".join(self._known)
        raise NotFound(
            f"model: no encoder '{name}'",
            hint=f"known here: {known}"
            if known
            else "there is none here: trimtab serve --encoder NAME",
        )

    async def all(self) -> Sequence[Encoding]:
        """Every encoder as the database has them now, but those whose files are damaged."""
        if self._encodes is None:
            return ()
        self._known = await self._database.read(self._look_up)
        self._read_at = time.monotonic()
        return tuple(each for each in self._known.values() if isinstance(each, Encoding))

    def engine(self, encoding: Encoding) -> Engine:
        assert self._encodes is not None
        return self._encodes(encoding.encoder)

    def _look_up(self, connection: Connection) -> dict[str, Encoding | IdentityError]:
        found: dict[str, Encoding | IdentityError] = {}
        for encoder in encoders.list(connection):
            before = self._known.get(encoder.name)
            same = isinstance(before, Encoding) and before.encoder == encoder
            found[encoder.name] = before if before and same else _encoding(encoder)
        return found


def _encoding(encoder: Encoder) -> Encoding | IdentityError:
    """What is wrong with one encoder is told to those who ask for it, and to nobody else."""
    try:
        return Encoding(encoder, InputFormat(encoder.folder, encoder.max_tokens))
    except DataError as error:
        return IdentityError(error.message, hint=error.hint)
