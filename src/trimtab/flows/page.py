"""The page of a loop: gathers what the steps left behind and writes `report.html` into the run."""

from contextlib import closing
from pathlib import Path
from typing import Any

from trimtab.canonical import short
from trimtab.data.dataset import Dataset
from trimtab.evaluate.gate import decide
from trimtab.evaluate.page import Page, Row, render
from trimtab.flows.loop import Outcome
from trimtab.flows.readings import read_report
from trimtab.flows.steps.evaluate import items_of
from trimtab.registry import deployments, reports
from trimtab.store.disk import write_whole

PLAN_COLUMNS = ("way", "memory", "time", "price", "verdict")


def summaries(outcome: Outcome) -> dict[str, dict[str, dict[str, Any]]]:
    """The summaries of the reports: name of the version, kind of suite, figures.

    The base comes first, then the incumbent, then the candidate.
    """
    names = ("candidate", "incumbent")
    evaluated = outcome.outputs["evaluate"].items()
    in_order = sorted(evaluated, key=lambda found: [found[0] == name for name in names])
    with closing(outcome.home.database()) as database, database.read() as connection:
        return {
            name: {kind: reports.get(connection, r).summary for kind, r in found.items()}
            for name, found in in_order
        }


def write_page(outcome: Outcome) -> Path:
    """Render the page beside the run's files; returns where it lies."""
    outputs, blobs = outcome.outputs, outcome.home.blobs
    dataset = Dataset.from_manifest(blobs.read_bytes(outputs["data"]["manifest"]))
    gate = decide(outputs["gate"]["evidence"])
    with closing(outcome.home.database()) as database, database.read() as connection:
        live = deployments.get(connection, outcome.project.deployment).live
    counts = outputs["data"]["counts"]
    kept = {"read", "train", "holdout", "shadow"}
    page = Page(
        project=outcome.project.name,
        headline=f"{short(live)} is live",
        why=outputs["promote"]["why"] if outcome.promoted else outcome.refused,
        gate=gate,
        rows=_rows(outcome),
        items=items_of(dataset.holdout),
        curve=blobs.read_bytes(outputs["train"]["picture"]).decode(),
        dropped={reason: count for reason, count in counts.items() if reason not in kept},
        plan=[dict(zip(PLAN_COLUMNS, row, strict=True)) for row in outputs["plan"]["rows"]],
        lineage=_lineage(outcome),
    )
    file = outcome.home.runs / str(outputs["train"]["run"]) / "report.html"
    file.parent.mkdir(parents=True, exist_ok=True)
    write_whole(file, render(page).encode())
    return file


def _rows(outcome: Outcome) -> list[Row]:
    with closing(outcome.home.database()) as database:
        read = {
            name: {
                kind: read_report(database, outcome.home.blobs, kind, content)
                for kind, content in found.items()
            }
            for name, found in outcome.outputs["evaluate"].items()
        }
    first = "incumbent" if "incumbent" in read else "base"
    names = [first, *(name for name in read if name not in (first, "candidate")), "candidate"]
    return [
        Row(name, read[name]["holdout"], read[name].get("safety"), read[name].get("performance"))
        for name in names
    ]


def _lineage(outcome: Outcome) -> list[tuple[str, str]]:
    outputs = outcome.outputs
    return [
        ("dataset", outputs["data"]["dataset"]),
        ("run", outputs["train"]["run"]),
        ("adapter", outputs["train"]["adapter"]),
        ("version", outputs["register"]["version"]),
        ("gate", outputs["gate"]["gate"]),
    ]
