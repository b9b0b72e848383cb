"""Datasets and which records each holds. The records themselves lie in the manifest blob."""

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from trimtab.canonical import canonical_json
from trimtab.registry.prefixes import by_prefix
from trimtab.registry.tables import datasets, records
from trimtab.store.clock import now_us
from trimtab.store.database import Connection
from trimtab.store.rows import insert_once


@dataclass(frozen=True, slots=True)
class DatasetEntry:
    """`recipe` is how it was made, `manifest` the blob that holds it, `counts` records a split."""

    hash: str
    project: str
    recipe: dict[str, Any]
    manifest: str
    counts: dict[str, int]
    created_us: int = field(default_factory=now_us)


@dataclass(frozen=True, slots=True)
class SourceLine:
    """Where a record of a dataset came from."""

    record: str
    split: str
    source: str
    line: int


def add(connection: Connection, dataset: DatasetEntry, lines: Iterable[SourceLine]) -> bool:
    """Register a dataset with its records; False if it was known, which changes nothing."""
    row = {
        "hash": dataset.hash,
        "project": dataset.project,
        "recipe": canonical_json(dataset.recipe).decode(),
        "manifest": dataset.manifest,
        "counts": canonical_json(dataset.counts).decode(),
        "created_us": dataset.created_us,
    }
    if not insert_once(connection, datasets, row):
        return False
    rows = [
        {
            "dataset_hash": dataset.hash,
            "record_hash": line.record,
            "split": line.split,
            "source": line.source,
            "line": line.line,
        }
        for line in lines
    ]
    if rows:
        connection.execute(records.insert(), rows)
    return True


def get(connection: Connection, prefix: str) -> DatasetEntry:
    """The dataset whose hash begins with `prefix` (8 characters or more). Raises NotFound."""
    return _dataset(by_prefix(connection, datasets, prefix))


def _dataset(row: Any) -> DatasetEntry:
    return DatasetEntry(
        hash=row.hash,
        project=row.project,
        recipe=json.loads(row.recipe),
        manifest=row.manifest,
        counts=json.loads(row.counts),
        created_us=row.created_us,
    )
