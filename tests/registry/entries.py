"""Rows for the registry's tests."""

from pathlib import Path

from trimtab.canonical import digest
from trimtab.registry import bases, versions
from trimtab.registry.bases import Base
from trimtab.registry.identity import VersionSpec
from trimtab.registry.versions import ModelVersion
from trimtab.store.database import Connection

BASE = digest(b"base")


def spec(adapter: str | None) -> VersionSpec:
    return VersionSpec(
        base=BASE,
        adapter=None if adapter is None else digest(adapter.encode()),
        tokenizer=digest(b"tokenizer"),
        template={"chat_template": "{{ messages }}", "system": ""},
        defaults={"max_tokens": 48, "stop_tokens": [2]},
    )


def add_base(connection: Connection) -> Base:
    base = Base(BASE, "tiny", Path("/models/tiny"), {"folder": "tiny"}, 1234, created_us=1)
    bases.add(connection, base)
    return base


def add_version(connection: Connection, adapter: str | None, state: versions.State) -> str:
    """A version that has come as far as `state`, on a base that is registered on the way."""
    add_base(connection)
    version = ModelVersion(spec(adapter), project="desk", run_id=adapter, state=state)
    versions.add(connection, version)
    return version.hash
