"""What the gate decided on a candidate, and the evidence that replays to the same verdict."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from trimtab.canonical import canonical_json
from trimtab.registry.tables import gates
from trimtab.store.clock import now_us
from trimtab.store.database import Connection
from trimtab.store.rows import insert_once


@dataclass(frozen=True, slots=True)
class GateEntry:
    """`candidate` and `incumbent` are versions; `verdict` is the gate's word."""

    hash: str
    project: str
    candidate: str
    incumbent: str
    verdict: str
    evidence: dict[str, Any]
    created_us: int = field(default_factory=now_us)


def add(connection: Connection, gate: GateEntry) -> bool:
    """Register a verdict; False if it was known, which changes nothing."""
    row = {
        "hash": gate.hash,
        "project": gate.project,
        "candidate": gate.candidate,
        "incumbent": gate.incumbent,
        "verdict": gate.verdict,
        "evidence": canonical_json(gate.evidence).decode(),
        "created_us": gate.created_us,
    }
    return insert_once(connection, gates, row)


def of_candidate(connection: Connection, version: str) -> Sequence[GateEntry]:
    """The verdicts on a version (its whole hash), the newest first."""
    query = gates.select().where(gates.c.candidate == version)
    ordered = query.order_by(gates.c.created_us.desc(), gates.c.hash)
    return tuple(_gate(row) for row in connection.execute(ordered))


def _gate(row: Any) -> GateEntry:
    return GateEntry(
        hash=row.hash,
        project=row.project,
        candidate=row.candidate,
        incumbent=row.incumbent,
        verdict=row.verdict,
        evidence=json.loads(row.evidence),
        created_us=row.created_us,
    )
