"""Deployments: a blue and a green slot, which of them is live, and every change of it.

A change is one compare-and-set on the generation, with its event row and the versions' states in
the caller's transaction. So generations have no gaps, and the last event says what is live and why.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from trimtab.canonical import canonical_json
from trimtab.errors import InUse, NotFound
from trimtab.registry import versions
from trimtab.registry.tables import deployment_events, deployments
from trimtab.store.clock import now_us
from trimtab.store.database import Connection
from trimtab.store.rows import insert_once

Slot = Literal["blue", "green"]
Kind = Literal["created", "candidate", "promoted", "rolled back"]


@dataclass(frozen=True, slots=True)
class Deployment:
    """A named endpoint. `generation` counts its changes from 1."""

    name: str
    project: str
    blue: str | None
    green: str | None
    live_slot: Slot
    generation: int
    updated_us: int

    @property
    def live(self) -> str:
        """The version that answers."""
        version = self.blue if self.live_slot == "blue" else self.green
        assert version is not None, "the live slot of a deployment is never empty"
        return version

    @property
    def idle_slot(self) -> Slot:
        return "green" if self.live_slot == "blue" else "blue"

    @property
    def idle(self) -> str | None:
        """The version beside the live one: a candidate, or the one that was live before."""
        return self.green if self.live_slot == "blue" else self.blue


@dataclass(frozen=True, slots=True)
class Event:
    """One change. `previous` is the version that was live before it."""

    deployment: str
    generation: int
    kind: Kind
    version_hash: str
    previous: str | None
    why: str
    evidence: dict[str, Any]
    at_us: int


def create(
    connection: Connection, name: str, project: str, live: str, why: str = "created"
) -> Deployment:
    """A deployment whose blue slot answers with `live`; one that exists is left as it is."""
    row = {
        "name": name,
        "project": project,
        "blue": live,
        "green": None,
        "live_slot": "blue",
        "generation": 1,
        "updated_us": now_us(),
    }
    if insert_once(connection, deployments, row):
        versions.set_state(connection, live, "live")
        _note(connection, get(connection, name), "created", live, None, why, {})
    return get(connection, name)


def get(connection: Connection, name: str) -> Deployment:
    """Raises NotFound, naming the deployments there are."""
    row = connection.execute(deployments.select().where(deployments.c.name == name)).first()
    if row is None:
        known = ", ".join(deployment.name for deployment in list(connection))
        raise NotFound(
            f"no deployment '{name}'",
            hint=f"known here: {known}" if known else "first: trimtab run",
        )
    return Deployment(**row._mapping)


def list(connection: Connection) -> Sequence[Deployment]:
    """Every deployment, by name."""
    rows = connection.execute(deployments.select().order_by(deployments.c.name))
    return tuple(Deployment(**row._mapping) for row in rows)


def candidate(
    connection: Connection, name: str, version: str, expected_generation: int
) -> Deployment:
    """Put a verified version into the idle slot, in state shadow; nothing if it is there already.

    One that is live at another deployment stays so. Raises InUse when the deployment is at another
    generation.
    """
    now = get(connection, name)
    live = _is_live(connection, version)
    if now.idle == version and (live or versions.get(connection, version).state == "shadow"):
        return now
    changed = _swap(connection, now, expected_generation, {now.idle_slot: version})
    _retire_shadow(connection, now.idle, but=version)
    if not live:
        versions.set_state(connection, version, "shadow")
    _note(connection, changed, "candidate", version, now.live, "to be tried in shadow", {})
    return changed


def promote(
    connection: Connection,
    name: str,
    version: str,
    expected_generation: int,
    why: str,
    evidence: Mapping[str, Any],
) -> Deployment:
    """Make a version live; the one before stays in the other slot. Nothing if it is live already.

    Raises InUse when the deployment is at another generation, and TrimtabError for a version that
    has not come through shadow.
    """
    now = get(connection, name)
    if now.live == version:
        return now
    changed = _make_live(connection, now, version, expected_generation)
    versions.set_state(connection, version, "live")
    _leave(connection, now.live, "retired")
    _note(connection, changed, "promoted", version, now.live, why, evidence)
    return changed


def rollback(
    connection: Connection,
    name: str,
    expected_generation: int,
    why: str,
    evidence: Mapping[str, Any],
) -> Deployment:
    """Make the version before the live one live again.

    Raises InUse when the deployment is at another generation, and NotFound where no older version
    stands.
    """
    now = get(connection, name)
    older = previous(connection, name)
    if older is None:
        raise NotFound(
            f"deployment '{name}' has no older version", hint="promote another one: trimtab run"
        )
    changed = _make_live(connection, now, older, expected_generation)
    versions.set_state(connection, older, "live")
    _leave(connection, now.live, "rolled back")
    _note(connection, changed, "rolled back", older, now.live, why, evidence)
    return changed


def previous(connection: Connection, name: str) -> str | None:
    """The version that a rollback would make live: the last that was, and was not rolled back."""
    live = get(connection, name).live
    for event in events(connection, name):
        if event.previous in (None, live):
            continue
        if versions.get(connection, event.previous).state in ("retired", "live"):
            return event.previous
    return None


def events(connection: Connection, name: str) -> Sequence[Event]:
    """Every change of a deployment, the newest first."""
    query = deployment_events.select().where(deployment_events.c.deployment == name)
    rows = connection.execute(query.order_by(deployment_events.c.generation.desc()))
    return tuple(event_of(row) for row in rows)


def made_live(connection: Connection, name: str) -> Event:
    """The change that made the live version live: since when, and why."""
    return next(event for event in events(connection, name) if event.kind != "candidate")


def _make_live(connection: Connection, now: Deployment, version: str, expected: int) -> Deployment:
    slots = {now.idle_slot: version, "live_slot": now.idle_slot}
    return _swap(connection, now, expected, slots)


def _swap(
    connection: Connection, now: Deployment, expected: int, values: Mapping[str, str]
) -> Deployment:
    """The compare-and-set that every change goes through."""
    fresh = {**values, "generation": expected + 1, "updated_us": now_us()}
    here = (deployments.c.name == now.name) & (deployments.c.generation == expected)
    change = deployments.update().where(here).values(fresh)
    # `values` were chosen by looking at `now`, so they fit no other generation.
    if now.generation != expected or connection.execute(change).rowcount != 1:
        raise InUse(
            f"deployment '{now.name}' is at generation {now.generation}, not {expected}",
            hint="somebody else changed it: look at trimtab status, then do the same again",
        )
    return get(connection, now.name)


def _leave(connection: Connection, version: str, state: versions.State) -> None:
    """Set the state of a version that stopped being live here, unless it is live elsewhere."""
    if not _is_live(connection, version):
        versions.set_state(connection, version, state)


def _is_live(connection: Connection, version: str) -> bool:
    """Whether any deployment answers with a version."""
    return any(deployment.live == version for deployment in _all(connection))


def _all(connection: Connection) -> Sequence[Deployment]:
    # On PostgreSQL another transaction could change one of them unseen: it has to wait.
    rows = connection.execute(deployments.select().with_for_update())
    return [Deployment(**row._mapping) for row in rows]


def _retire_shadow(connection: Connection, version: str | None, but: str) -> None:
    """Set the state of a version that is tried here no more, unless it is tried elsewhere."""
    if version is None or version == but or versions.get(connection, version).state != "shadow":
        return
    if all(deployment.idle != version for deployment in _all(connection)):
        versions.set_state(connection, version, "retired")


def _note(
    connection: Connection,
    changed: Deployment,
    kind: Kind,
    version: str,
    before: str | None,
    why: str,
    evidence: Mapping[str, Any],
) -> None:
    row = {
        "deployment": changed.name,
        "generation": changed.generation,
        "kind": kind,
        "version_hash": version,
        "previous": before,
        "why": why,
        "evidence": canonical_json(dict(evidence)).decode(),
        "at_us": changed.updated_us,
    }
    connection.execute(deployment_events.insert().values(row))


def event_of(row: Any) -> Event:
    return Event(**{**row._mapping, "evidence": json.loads(row.evidence)})
