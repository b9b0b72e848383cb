"""From any name to the whole chain: source line, record, dataset, run, version, report, gate,
deployment. What a version answered is the journal's to count.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from trimtab.errors import NotFound
from trimtab.registry import deployments, gates, reports, versions
from trimtab.registry.datasets import SourceLine
from trimtab.registry.deployments import Event
from trimtab.registry.gates import GateEntry
from trimtab.registry.prefixes import SHORTEST
from trimtab.registry.reports import ReportEntry
from trimtab.registry.tables import deployment_events, records
from trimtab.registry.tables import versions as version_rows
from trimtab.registry.versions import ModelVersion
from trimtab.store.database import Connection


@dataclass(frozen=True, slots=True)
class Lineage:
    """One version from its sources to its deployments.

    `lines` are all source lines of its dataset, or, traced from a record, the lines of that one.
    """

    version: ModelVersion
    lines: Sequence[SourceLine]
    reports: Sequence[ReportEntry]
    gates: Sequence[GateEntry]
    events: Sequence[Event]


def trace(connection: Connection, name: str) -> Sequence[Lineage]:
    """The versions that `name` leads to, each with its lineage.

    `name` is a run, or the hash (8 characters or more) of a version, a dataset or a record. For an
    answer, pass the version that its row in the journal names. Raises NotFound.
    """
    rows = version_rows.c
    found = _versions(connection, rows.run_id == name)
    # Hashes are in lower case, and only SQLite compares without looking at the case.
    prefix = name.lower()
    if not found and len(name) >= SHORTEST:
        found = _versions(connection, rows.hash.startswith(prefix, autoescape=True))
        found = found or _versions(
            connection, rows.dataset_hash.startswith(prefix, autoescape=True)
        )
    lineages = [_lineage(connection, version) for version in found]
    if not lineages and len(name) >= SHORTEST:
        lineages = _of_record(connection, prefix)
    if not lineages:
        raise NotFound(
            f"nothing has the name '{name[:80]}'",
            hint="give a run, or 8 or more characters of a version's, dataset's or record's hash",
        )
    return tuple(lineages)


def _of_record(connection: Connection, prefix: str) -> list[Lineage]:
    """The versions trained on a record, with the lines of that record alone."""
    where = records.c.record_hash.startswith(prefix, autoescape=True)
    lines: dict[str, list[SourceLine]] = {}
    for row in connection.execute(records.select().where(where)):
        lines.setdefault(row.dataset_hash, []).append(_line(row))
    return [
        _lineage(connection, version, of_dataset)
        for dataset, of_dataset in lines.items()
        for version in _versions(connection, version_rows.c.dataset_hash == dataset)
    ]


def _lineage(
    connection: Connection, version: ModelVersion, lines: Sequence[SourceLine] | None = None
) -> Lineage:
    if lines is None:
        lines = _lines_of(connection, version.dataset_hash)
    happened = deployment_events.select().where(deployment_events.c.version_hash == version.hash)
    ordered = happened.order_by(deployment_events.c.at_us, deployment_events.c.generation)
    return Lineage(
        version=version,
        lines=tuple(lines),
        reports=reports.of_version(connection, version.hash),
        gates=gates.of_candidate(connection, version.hash),
        events=tuple(deployments.event_of(row) for row in connection.execute(ordered)),
    )


def _lines_of(connection: Connection, dataset: str | None) -> Sequence[SourceLine]:
    query = records.select().where(records.c.dataset_hash == dataset)
    ordered = query.order_by(records.c.source, records.c.line, records.c.record_hash)
    return [_line(row) for row in connection.execute(ordered)]


def _versions(connection: Connection, where: Any) -> Sequence[ModelVersion]:
    query = version_rows.select().where(where)
    query = query.order_by(version_rows.c.created_us, version_rows.c.hash)
    return [versions.of_row(row) for row in connection.execute(query)]


def _line(row: Any) -> SourceLine:
    return SourceLine(row.record_hash, row.split, row.source, row.line)
