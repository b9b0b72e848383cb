"""Model versions and where each stands in its rollout."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from trimtab.canonical import canonical_json, short
from trimtab.errors import InUse, TrimtabError
from trimtab.registry.identity import VersionSpec
from trimtab.registry.prefixes import by_prefix
from trimtab.registry.tables import versions
from trimtab.store.clock import now_us
from trimtab.store.database import Connection
from trimtab.store.rows import insert_once

State = Literal["unverified", "verified", "shadow", "canary", "live", "retired", "rolled back"]

# A retired version may come back by a rollback; one that was rolled back must be proved anew.
_NEXT: dict[State, tuple[State, ...]] = {
    "unverified": ("verified",),
    "verified": ("shadow",),
    "shadow": ("canary", "live", "retired"),
    "canary": ("live", "retired", "rolled back"),
    "live": ("retired", "rolled back"),
    "retired": ("shadow", "live"),
    "rolled back": ("verified",),
}


@dataclass(frozen=True, slots=True)
class ModelVersion:
    """A version with its lineage. A base on its own is one too, without an adapter."""

    spec: VersionSpec
    project: str
    adapter_artifact: str | None = None
    package_artifact: str | None = None
    run_id: str | None = None
    dataset_hash: str | None = None
    state: State = "unverified"
    created_us: int = field(default_factory=now_us)

    @property
    def hash(self) -> str:
        return self.spec.hash

    @property
    def trained(self) -> bool:
        """Whether a run made it, as an adapter or as a base of its own; else it is a base."""
        return self.spec.adapter is not None or self.run_id is not None


def add(connection: Connection, version: ModelVersion) -> bool:
    """Register a version; False if it was known, which changes nothing. Its base must be known."""
    row = {
        "hash": version.hash,
        "spec": canonical_json(version.spec.to_dict()).decode(),
        "base_hash": version.spec.base,
        "adapter_artifact": version.adapter_artifact,
        "package_artifact": version.package_artifact,
        "run_id": version.run_id,
        "dataset_hash": version.dataset_hash,
        "project": version.project,
        "state": version.state,
        "created_us": version.created_us,
    }
    return insert_once(connection, versions, row)


def get(connection: Connection, prefix: str) -> ModelVersion:
    """The version whose hash begins with `prefix` (8 characters or more). Raises NotFound."""
    return of_row(by_prefix(connection, versions, prefix))


def list(connection: Connection, project: str | None = None) -> Sequence[ModelVersion]:
    """Every version, or those of a project, the oldest first."""
    query = versions.select().order_by(versions.c.created_us, versions.c.hash)
    if project is not None:
        query = query.where(versions.c.project == project)
    return tuple(of_row(row) for row in connection.execute(query))


def set_state(connection: Connection, content: str, state: State) -> None:
    """Move a version along its rollout; to where it stands is no move.

    Raises TrimtabError for a passage that the rollout does not have, and InUse where another
    transaction moved the version meanwhile.
    """
    version = get(connection, content)
    if version.state == state:
        return
    # A base is what everything is proved against, so it may be live before anything was.
    first_live = not version.trained and state == "live"
    if state not in _NEXT[version.state] and not first_live:
        raise TrimtabError(
            f"version {short(version.hash)} is {version.state} and cannot become {state}",
            hint=f"from there it goes to: {', '.join(_NEXT[version.state])}",
        )
    # PostgreSQL shows other transactions' commits between two statements of one.
    here = (versions.c.hash == version.hash) & (versions.c.state == version.state)
    if connection.execute(versions.update().where(here).values(state=state)).rowcount != 1:
        raise InUse(
            f"version {short(version.hash)} is no longer {version.state}",
            hint="somebody else moved it: look at trimtab models, then do the same again",
        )


def set_package(connection: Connection, content: str, artifact: str) -> None:
    """Give a base the package that says how it answers; a newer one takes its place."""
    here = (versions.c.hash == content) & versions.c.run_id.is_(None)
    connection.execute(versions.update().where(here).values(package_artifact=artifact))


def of_row(row: Any) -> ModelVersion:
    return ModelVersion(
        spec=VersionSpec.from_dict(json.loads(row.spec)),
        project=row.project,
        adapter_artifact=row.adapter_artifact,
        package_artifact=row.package_artifact,
        run_id=row.run_id,
        dataset_hash=row.dataset_hash,
        state=row.state,
        created_us=row.created_us,
    )
