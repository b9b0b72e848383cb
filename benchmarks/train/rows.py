"""The rows of train.json: one a system, case and figure, each repetition with its commit."""

import json
from collections.abc import Mapping
from pathlib import Path
from statistics import median
from typing import Any

UNITS = {
    "tok_s": "tokens/s",
    "peak_mb": "MB",
    "first_loss": "nats/token",
    "final_loss": "nats/token",
    "share_of_limit": "share",
    "tokens": "tokens",
}
# System, case, figure.
Cell = tuple[str, str, str]
Row = dict[str, Any]


def read(file: Path) -> dict[Cell, Row]:
    """No rows where there is no such file yet."""
    return of_cells(json.loads(file.read_text())["rows"]) if file.exists() else {}


def of_cells(rows: list[Row]) -> dict[Cell, Row]:
    return {(row["system"], row["case"], row["figure"]): row for row in rows}


def merged(
    before: Mapping[Cell, Row], values: Mapping[Cell, list[float]], commit: str, *, more: bool
) -> list[Row]:
    """The rows of before, those measured anew in their place, or with `more` added to them."""
    found = dict(before)
    for cell, each in values.items():
        old = before.get(cell) if more else None
        repetitions = [*(old["repetitions"] if old else []), *(round(value, 4) for value in each)]
        commits = [*(old["commits"] if old else []), *(commit for _ in each)]
        system, case, figure = cell
        found[cell] = {
            "system": system,
            "case": case,
            "figure": figure,
            "value": round(median(repetitions), 4),
            "unit": UNITS[figure],
            "repetitions": repetitions,
            "commits": commits,
            "precision": "float32",
        }
    return list(found.values())


def together(one: Row, other: Row) -> tuple[float, float, int]:
    """Medians of two rows and their rounds, over the commits at which both were measured: what two
    runs found is not compared. Rounds are 0 where there is no such commit.
    """
    shared = set(one["commits"]) & set(other["commits"])
    sides = [
        [v for v, at in zip(row["repetitions"], row["commits"], strict=True) if at in shared]
        for row in (one, other)
    ]
    if not shared:
        return 0.0, 0.0, 0
    return median(sides[0]), median(sides[1]), min(map(len, sides))
