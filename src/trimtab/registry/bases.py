"""Base models as they lie on this machine."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from trimtab.canonical import canonical_json
from trimtab.errors import NotFound
from trimtab.registry.tables import bases
from trimtab.store.clock import now_us
from trimtab.store.database import Connection
from trimtab.store.rows import insert_or_update


@dataclass(frozen=True, slots=True)
class Base:
    """`source` says where it came from, e.g. {"hub": ..., "revision": ...}."""

    hash: str
    name: str
    folder: Path
    source: dict[str, Any]
    parameters: int
    created_us: int = field(default_factory=now_us)


def add(connection: Connection, base: Base) -> None:
    """Register a base, or note that a known one lies elsewhere now."""
    row = {
        "hash": base.hash,
        "name": base.name,
        "folder": str(base.folder),
        "source": canonical_json(base.source).decode(),
        "parameters": base.parameters,
        "created_us": base.created_us,
    }
    insert_or_update(connection, bases, row, key=["hash"], keep=["created_us"])


def get(connection: Connection, content: str) -> Base:
    """The base with that hash. Raises NotFound."""
    row = connection.execute(bases.select().where(bases.c.hash == content)).first()
    if row is None:
        raise NotFound(f"no base {content[:12]}", hint="it is registered by trimtab run")
    return _base(row)


def _base(row: Any) -> Base:
    return Base(
        row.hash, row.name, Path(row.folder), json.loads(row.source), row.parameters, row.created_us
    )
