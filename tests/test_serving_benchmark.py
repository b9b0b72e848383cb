"""A part of the serving benchmark run again: what stays, and of which commit each row is."""

from typing import Any

from benchmarks.serve.kept import merged


def row(system: str, case: str, value: float | None, **more: Any) -> dict[str, Any]:
    return {"system": system, "case": case, "figure": "output_tok_s", "value": value, **more}


def found(commit: str, rounds: int, *rows: dict[str, Any]) -> dict[str, Any]:
    whole = {"date": "2026-11-26", "rounds": rounds, "spared": {}}
    return {"commit": commit, **whole, "precisions": {commit: "float32"}, "rows": list(rows)}


def test_each_row_says_of_which_commit_it_is() -> None:
    first = found(
        "aaa", 3, row("ours", "c1", 1.0), row("peer", "c1", 2.0), row("peer", "c32", None)
    )
    second = merged(found("bbb", 1, row("ours", "c1", 3.0), row("peer", "c1", None)), first)
    third = merged(found("ccc", 0, row("peer", "c32", 4.0)), second)
    told = {(r["system"], r["case"]): (r["value"], r["commit"]) for r in third["rows"]}
    assert told == {
        ("ours", "c1"): (3.0, "bbb"),
        ("peer", "c1"): (2.0, "aaa"),
        ("peer", "c32"): (4.0, "ccc"),
    }
    assert len(third["rows"]) == 3
    assert third["rounds"] == 3
    assert third["precisions"] == dict.fromkeys(("aaa", "bbb", "ccc"), "float32")


def test_a_case_measured_again_keeps_no_figure_of_its_last_time() -> None:
    failed = {**row("ours", "c1", 2.0), "figure": "failed"}
    rows = merged(found("bbb", 3, row("ours", "c1", 3.0)), found("aaa", 3, failed))["rows"]
    assert [(r["figure"], r["commit"]) for r in rows] == [("output_tok_s", "bbb")]
