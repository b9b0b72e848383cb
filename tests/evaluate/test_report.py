from dataclasses import replace

import pytest

from tests.evaluate.made import CANDIDATE, holdout, safety
from trimtab.errors import DataError
from trimtab.evaluate.holdout import HoldoutItem
from trimtab.evaluate.report import read_items
from trimtab.evaluate.safety import SafetyItem


def test_items_come_back_from_their_bytes() -> None:
    report = holdout(CANDIDATE, [1, 0, 1])
    assert read_items(report.items_json(), HoldoutItem) == report.items


def test_items_of_another_suite_are_refused() -> None:
    data = safety(CANDIDATE, {"benign-kill": "safe"}).items_json()
    assert len(read_items(data, SafetyItem)) == 1
    with pytest.raises(DataError, match="not HoldoutItems"):
        read_items(data, HoldoutItem)


def test_the_hash_is_over_everything() -> None:
    report = holdout(CANDIDATE, [1, 0])
    others = [
        replace(report, suite="holdout-3-shots"),
        replace(report, version="d" * 64),
        replace(report, runtime="other-1/cuda/bfloat16/none"),
        replace(report, items=report.items[:1]),
        replace(report, summary={**report.summary, "exact_match": 0.6}),
    ]
    assert holdout(CANDIDATE, [1, 0]).hash == report.hash
    assert len({report.hash, *(other.hash for other in others)}) == 6
