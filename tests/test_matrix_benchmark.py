"""The page of methods and objectives is that of its file, and none of its pairs stood still."""

import json
from typing import Any

from benchmarks.matrix import OUT, page

from trimtab.train.methods import METHODS
from trimtab.train.objectives import OBJECTIVES
from trimtab.train.pairing import why_not

ROWS: list[dict[str, Any]] = json.loads(OUT.read_bytes())["rows"]
TOLD = {(row["case"], row["figure"]): row["value"] for row in ROWS}


def test_the_page_is_that_of_the_file() -> None:
    assert OUT.with_suffix(".md").read_text() == page(ROWS)


def test_each_pair_is_there_and_those_refused_are_the_trainer_s() -> None:
    for objective in OBJECTIVES:
        for method in METHODS:
            ran = TOLD[f"{objective} by {method}", "loss"] is not None
            assert ran == (not why_not(objective, method))


def test_every_policy_has_moved_and_each_its_own_way() -> None:
    for objective in (name for name in OBJECTIVES if OBJECTIVES[name].rollouts):
        cases = [f"{objective} by {method}" for method in METHODS]
        assert all(TOLD[case, "kl"] > 0.02 for case in cases)
        ends = {(TOLD[case, "reward"], TOLD[case, "kl"]) for case in cases}
        assert len(ends) == len(METHODS)
