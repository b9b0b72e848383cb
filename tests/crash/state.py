"""What a loop left behind, in a form that two homes can be compared by."""

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

# Every table whose rows a loop writes, with the columns that do not tell times or places.
COLUMNS = {
    "datasets": "hash, project, recipe, manifest, counts",
    "records": "dataset_hash, record_hash, split, source, line",
    "versions": "hash, project, adapter_artifact, package_artifact, run_id, dataset_hash, state",
    "deployments": "name, project, blue, green, live_slot, generation",
    "deployment_events": "deployment, generation, kind, version_hash, previous, why",
    "prices": "version_hash, prompt_nano, completion_nano",
    "gates": "candidate, incumbent, verdict",
    "reports": "suite, version_hash, runtime, dataset_hash",
    "steps": "project, step, finished_us IS NOT NULL",
}


def state_of(home: Path) -> dict[str, list[Any]]:
    """The rows of every table, sorted: one row too many or too few is a difference."""
    with closing(sqlite3.connect(home / "trimtab.db")) as connection:
        return {
            table: sorted(connection.execute(f"SELECT {columns} FROM {table}"), key=repr)
            for table, columns in COLUMNS.items()
        }


def leftovers(home: Path) -> list[Path]:
    """Temporary files that a kill left and nobody cleared away."""
    return [path for path in home.rglob("*") if path.is_file() and ".tmp" in path.name]
