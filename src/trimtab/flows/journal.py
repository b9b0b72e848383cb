"""The step journal: what a loop has done, so that a rerun goes on instead of beginning again.

A step is known by its name and a hash over everything that decides its result. Its output is
committed in the same transaction as the rows it wrote, so it is done whole or not at all.
"""

import json
from typing import Any

from trimtab.canonical import canonical_json
from trimtab.flows import tables
from trimtab.store.clock import now_us
from trimtab.store.database import Connection, Database


class StepJournal:
    """The journal of one project. Outputs are plain JSON objects."""

    def __init__(self, database: Database, project: str) -> None:
        self._database = database
        self._project = project

    def find(self, step: str, key: str) -> dict[str, Any] | None:
        """The output of a step that is done; None where it is not."""
        with self._database.read() as connection:
            found = tables.find_output(connection, self._project, step, key)
        return None if found is None else dict(json.loads(found))

    def start(self, step: str, key: str) -> None:
        with self._database.transaction() as connection:
            tables.start_step(connection, self._project, step, key, now_us())

    def finish(self, connection: Connection, step: str, key: str, output: dict[str, Any]) -> None:
        """Inside the transaction that holds everything else the step wrote."""
        text = canonical_json(output).decode()
        tables.finish_step(connection, self._project, step, key, text, now_us())
