"""A report: what one suite measured on one version and runtime, item by item.

The items are kept whole, because the gate pairs them; the summary is what people read. Knows
nothing of tables: `registry.reports` stores the bytes and the summary made here.
"""

import json
from collections.abc import Sequence
from dataclasses import MISSING, asdict, dataclass, fields
from typing import Any, ClassVar, Generic, Protocol, TypeVar

from trimtab.canonical import canonical_json, content_hash, digest
from trimtab.errors import DataError


class Measured(Protocol):
    """One item's measurement: a flat dataclass of JSON values with the item's id."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    @property
    def id(self) -> str: ...


M = TypeVar("M", bound=Measured)


@dataclass(frozen=True, slots=True)
class Report(Generic[M]):
    """`version` is a version's hash, `runtime` a `Runtime.name`; the summary is plain JSON."""

    suite: str
    version: str
    runtime: str
    items: tuple[M, ...]
    summary: dict[str, Any]

    @property
    def hash(self) -> str:
        return content_hash(
            {
                "suite": self.suite,
                "version": self.version,
                "runtime": self.runtime,
                "items": digest(self.items_json()),
                "summary": self.summary,
            }
        )

    def items_json(self) -> bytes:
        """The items as a canonical JSON array: one blob."""
        return canonical_json([asdict(item) for item in self.items])


def read_items(data: bytes, kind: type[M]) -> tuple[M, ...]:
    """The items of a stored report. Raises DataError where they are of another suite."""
    rows: Sequence[dict[str, Any]] = json.loads(data)
    known = {field.name for field in fields(kind)}
    needed = {field.name for field in fields(kind) if field.default is MISSING}
    if not all(needed <= row.keys() <= known for row in rows):
        raise DataError(f"these items are not {kind.__name__}s", hint="evaluate the version again")
    return tuple(kind(**row) for row in rows)
