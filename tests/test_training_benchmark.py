"""What the training benchmark makes of its rows: which are compared, and which job was the same."""

from typing import Any

from benchmarks.train.page import Table, page
from benchmarks.train.rows import merged, of_cells

Values = dict[tuple[str, str, str], list[float]]


def values(**tok_s: list[float]) -> Values:
    return {(system, "lora-sft", "tok_s"): each for system, each in tok_s.items()}


def table(rows: list[dict[str, Any]]) -> Table:
    machine = {"cpu": "a", "cores": 2, "memory_gb": 25, "python": "3.11"}
    limits = {"gemm_gflop_s": 65.0}
    head = {"machine": machine, "date": "2026-11-26", "steps": {"lora-sft": 1}, "limits": limits}
    return Table({**head, "rows": rows})


def test_rounds_are_added_or_take_the_place_of_what_was_there() -> None:
    first = of_cells(
        merged({}, values(trimtab=[80.0, 84.0, 82.0], trl=[40.0] * 3), "aaa", more=False)
    )
    added = of_cells(merged(first, values(trimtab=[90.0]), "bbb", more=True))
    row = added["trimtab", "lora-sft", "tok_s"]
    assert (row["repetitions"], row["value"]) == ([80.0, 84.0, 82.0, 90.0], 83.0)
    assert row["commits"] == ["aaa", "aaa", "aaa", "bbb"]
    anew = of_cells(merged(first, values(trimtab=[90.0]), "bbb", more=False))
    assert anew["trimtab", "lora-sft", "tok_s"]["repetitions"] == [90.0]
    assert anew["trl", "lora-sft", "tok_s"]["commits"] == ["aaa"] * 3


def test_what_two_runs_found_is_not_compared() -> None:
    first = of_cells(merged({}, values(trimtab=[80.0] * 3, trl=[40.0] * 3), "aaa", more=False))
    both = values(trimtab=[90.0], **{"ms-swift": [30.0]})
    told = table(merged(first, both, "bbb", more=True))
    assert told.ratio("trl", "lora-sft", "tok_s") == (2.0, 3)
    assert told.ratio("ms-swift", "lora-sft", "tok_s") == (3.0, 1)
    apart = table(merged(first, values(trimtab=[90.0]), "bbb", more=False))
    assert apart.ratio("trl", "lora-sft", "tok_s") is None


def goals(final_loss: float) -> list[str]:
    found: Values = values(trimtab=[80.0] * 3, **{"ms-swift": [40.0] * 3})
    for system, loss in (("trimtab", 3.0), ("ms-swift", final_loss)):
        found[system, "lora-sft", "final_loss"] = [loss]
    lines = page(table(merged({}, found, "aaa", more=False)))
    return [line for line in lines if "best other peer" in line]


def test_a_peer_whose_losses_are_others_did_another_job() -> None:
    assert goals(3.01) == ["| lora-sft: 1.5 times the best other peer, ms-swift | 2.00 | 3 | yes |"]
    assert goals(3.2) == []
