"""Rows of docs/benchmarks/train-gpu.json: a figure each, as in every file of benchmarks.

A run is one round, so a figure is its own median; `run` tells several apart, and
`path`, `note` and `commit` stand beside each figure of theirs.
"""

from collections.abc import Iterator, Sequence
from typing import Any

Told = dict[str, Any]

UNITS = {
    "tok_s": "tokens/s",
    "step_s": "s",
    "tokens": "tokens",
    "peak_mb": "MB",
    "first_loss": "nat",
    "last_loss": "nat",
    "final_loss": "nat",
    "tflop_s": "TFLOP/s",
    "mfu": "share",
    "share_of_limit": "share",
}


def rows(told: Told) -> Iterator[Told]:
    """What was told of a system in a run, a row a figure; of one that failed, the reason."""
    names = {"system": told["system"], "case": told["case"]}
    beside = {name: told[name] for name in ("run", "commit", "path", "note") if name in told}
    if "failed" in told:
        value = {"figure": "tok_s", "value": None, "unit": UNITS["tok_s"], "repetitions": []}
        yield {**names, **value, "precision": "bf16", "reason": told["failed"], **beside}
    for figure, unit in UNITS.items():
        if figure in told:
            measured = {"value": told[figure], "unit": unit, "repetitions": [told[figure]]}
            yield {**names, "figure": figure, **measured, "precision": "bf16", **beside}


def told_of(rows: Sequence[Told]) -> list[Told]:
    """What `rows` made its rows of, in their order."""
    found: dict[tuple[str, str, int], Told] = {}
    for row in rows:
        names = {name: row[name] for name in ("case", "system", "run", "commit")}
        told = found.setdefault((row["case"], row["system"], row["run"]), names)
        told |= {name: row[name] for name in ("path", "note") if name in row}
        if row["value"] is None:
            told["failed"] = row["reason"]
        else:
            told[row["figure"]] = row["value"]
    return list(found.values())
