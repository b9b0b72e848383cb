"""What suites measured on a (version, runtime)."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from trimtab.canonical import canonical_json
from trimtab.registry.prefixes import by_prefix
from trimtab.registry.tables import reports
from trimtab.store.clock import now_us
from trimtab.store.database import Connection
from trimtab.store.rows import insert_once


@dataclass(frozen=True, slots=True)
class ReportEntry:
    """`items` is the blob with the answers item by item, `summary` the figures made of them."""

    hash: str
    suite: str
    version_hash: str
    runtime: str
    items: str
    summary: dict[str, Any]
    dataset_hash: str | None = None
    created_us: int = field(default_factory=now_us)


def add(connection: Connection, report: ReportEntry) -> bool:
    """Register a report; False if it was known, which changes nothing."""
    row = {
        "hash": report.hash,
        "suite": report.suite,
        "version_hash": report.version_hash,
        "runtime": report.runtime,
        "items": report.items,
        "summary": canonical_json(report.summary).decode(),
        "dataset_hash": report.dataset_hash,
        "created_us": report.created_us,
    }
    return insert_once(connection, reports, row)


def get(connection: Connection, prefix: str) -> ReportEntry:
    """The report whose hash begins with `prefix` (8 characters or more). Raises NotFound."""
    return _report(by_prefix(connection, reports, prefix))


def of_version(
    connection: Connection, version: str, suite: str | None = None
) -> Sequence[ReportEntry]:
    """The reports on a version (its whole hash), the newest first."""
    query = reports.select().where(reports.c.version_hash == version)
    if suite is not None:
        query = query.where(reports.c.suite == suite)
    ordered = query.order_by(reports.c.created_us.desc(), reports.c.hash)
    return tuple(_report(row) for row in connection.execute(ordered))


def _report(row: Any) -> ReportEntry:
    return ReportEntry(
        hash=row.hash,
        suite=row.suite,
        version_hash=row.version_hash,
        runtime=row.runtime,
        items=row.items,
        summary=json.loads(row.summary),
        dataset_hash=row.dataset_hash,
        created_us=row.created_us,
    )
