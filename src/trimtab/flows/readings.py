"""Reports read back from the registry, with their items."""

from typing import Any

from trimtab.evaluate.holdout import HoldoutItem
from trimtab.evaluate.performance import PerformanceItem
from trimtab.evaluate.report import Measured, Report, read_items
from trimtab.evaluate.safety import SafetyItem
from trimtab.registry import reports
from trimtab.store.blobs import Blobs
from trimtab.store.database import Database

KINDS: dict[str, type[Any]] = {
    "holdout": HoldoutItem,
    "safety": SafetyItem,
    "performance": PerformanceItem,
}


def read_report(database: Database, blobs: Blobs, kind: str, content: str) -> Report[Any]:
    """The report with that hash; `kind` is the key that the evaluate step gave it."""
    with database.read() as connection:
        entry = reports.get(connection, content)
    items: tuple[Measured, ...] = read_items(blobs.read_bytes(entry.items), KINDS[kind])
    return Report(entry.suite, entry.version_hash, entry.runtime, items, entry.summary)
