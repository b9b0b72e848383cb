"""A part of the serving benchmark run again: what stays, of which run it is, what is judged."""

import asyncio
import json
import math
from pathlib import Path
from typing import Any

import pytest
from benchmarks.serve import gpu, gpu_page, shapes
from benchmarks.serve.cases import highest
from benchmarks.serve.kept import merged
from benchmarks.serve.page import Table, goals, verdict


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
    rounds = [(r["system"], r["rounds"]) for r in third["rows"]]
    assert rounds == [("ours", 1), ("peer", 3), ("peer", 0)]
    assert third["rounds"] == 3
    assert third["precisions"] == dict.fromkeys(("aaa", "bbb", "ccc"), "float32")


def test_a_case_measured_again_keeps_no_figure_of_its_last_time() -> None:
    failed = {**row("ours", "c1", 2.0), "figure": "failed"}
    rows = merged(found("bbb", 3, row("ours", "c1", 3.0)), found("aaa", 3, failed))["rows"]
    assert [(r["figure"], r["commit"]) for r in rows] == [("output_tok_s", "bbb")]


def verdicts(found: dict[str, Any]) -> dict[str, str]:
    table = Table(found)
    return {goal.name: verdict(table, goal) for goal in goals(table)}


def test_what_two_runs_found_is_not_compared() -> None:
    ours = [row("trimtab", f"base/{case}", value) for case, value in (("c1", 3.0), ("c4", 9.0))]
    peer = [row("llama-server", f"base/{case}", 2.0) for case in ("c1", "c4")]
    first = found("aaa", 3, *ours, *peer)
    assert set(verdicts(first).values()) == {"met"}
    again = merged(found("bbb", 3, row("trimtab", "base/c4", 9.0)), first)
    assert verdicts(again) == {
        "base/c1 beside the best peer": "met",
        "base/c4 beside the best peer": "not judged: of two runs",
    }
    both = [row("trimtab", "base/c1", 3.0), row("llama-server", "base/c1", 2.0)]
    hasty = merged(found("ccc", 1, *both), first)
    assert hasty["rounds"] == 3
    assert verdicts(hasty)["base/c1 beside the best peer"] == "not judged: of too few rounds"


@pytest.mark.parametrize("capacity", [0.02, 0.15, 0.29, 0.5, 0.62, 0.85, 1.1, 1.3, 7.0])
def test_the_highest_rate_is_found_to_half_a_rung(capacity: float) -> None:
    tried = []

    async def held(rate: float) -> bool:
        tried.append(rate)
        return rate <= capacity

    found = asyncio.run(highest(held, 0.6, 4 / 3))
    assert len(set(tried)) == len(tried), "no rate is tried twice"
    if capacity < 0.1:
        assert found == 0
    else:
        assert found <= capacity < found * math.sqrt(4 / 3)


LIMITS = {"gemm_gflop_s": 1e6, "read_gb_s": 4e3}
CARD = {"name": "a card", "torch": "2.11"}


def test_what_a_card_s_run_measures_leaves_what_other_commands_did(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And a stream that came all at once ends no run."""
    monkeypatch.setattr(gpu, "OUT", tmp_path / "serve-gpu.json")
    before = json.loads(gpu_page.FILE.read_text())
    gpu.OUT.write_text(json.dumps(before))
    base = tmp_path / "config.json"
    base.write_text(json.dumps(shapes.SHAPES["smollm2-135m"]))
    rows = gpu.Rows(precisions={"trimtab": "bfloat16", "peer": "bfloat16"})
    for system, whole in (("trimtab", 90.0), ("peer", 8.0)):
        figures = {"output_tok_s": 700.0, "ttft_p50_ms": 8.0, "latency_p50_ms": whole}
        rows.note(system, gpu.Measured("base/c1", figures))
    gpu.write([gpu.Run("smollm2-135m", "random", tmp_path, rows)], LIMITS, CARD)
    found = json.loads(gpu.OUT.read_text())
    assert [found[name] for name in gpu.BESIDE] == [before[name] for name in gpu.BESIDE]
    assert found["commit"] != before["commit"]
    shared = {
        row["system"] for run in found["runs"] for row in run["rows"] if "share_of" in row["figure"]
    }
    assert shared == {"trimtab"}
    page = gpu_page.page(found)
    assert "| decode 1 |" in page
    assert "| base/c1 | 700" in page
