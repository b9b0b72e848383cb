"""The loop with objectives and methods beside SFT by LoRA: each ends in a version that is live."""

from contextlib import closing
from pathlib import Path

import pytest

from tests.tiny_project import write_pairs, write_project
from trimtab.flows.loop import run
from trimtab.project import Project
from trimtab.registry import bases, deployments, reports, versions
from trimtab.store.home import Home

TRAIN = {"learning_rate": 0.01, "epochs": 1, "batch_size": 8}
EVALUATE = {"suites": ["holdout"], "gate": "log_likelihood", "shots": 0, "max_tokens": 2}


def test_full_fine_tuning_ends_in_a_base_of_its_own(home: Home, base: str, tmp_path: Path) -> None:
    train = TRAIN | {"method": "full", "learning_rate": 0.001}
    file = write_project(tmp_path, 90, name="full", base=base, train=train, evaluate=EVALUATE)
    outcome = run(Project.load(file), home)
    assert outcome.promoted, outcome.refused
    registered = outcome.outputs["register"]
    with closing(outcome.home.database()) as database, database.read() as connection:
        version = versions.get(connection, registered["version"])
        began = versions.get(connection, registered["base_version"])
        made = bases.get(connection, version.spec.base)
        live = deployments.get(connection, "full").live
    assert live == version.hash
    assert version.spec.adapter is None
    assert version.spec.base != began.spec.base
    assert made.source == {"run": version.run_id, "base": began.spec.base}
    assert made.folder.parent == outcome.home.bases
    verified = outcome.outputs["verify"]
    assert verified["base_difference"] > 5 * verified["tolerance"]


@pytest.mark.parametrize(
    ("method", "rate"),
    # At 0.05 QLoRA's adapter here grows so large that two exact programs are 0.002 nat apart.
    [("prompt", 0.05), ("prefix", 0.05), ("bottleneck", 0.05), ("ia3", 0.05), ("qlora", 0.02)],
)
def test_an_adapter_of_another_kind_is_proved_and_goes_live(
    home: Home, base: str, tmp_path: Path, method: str, rate: float
) -> None:
    """Four through the engine's general path, one trained in 4 bits and served in full."""
    train = {"method": method, "epochs": 2, "batch_size": 8, "rank": 8, "learning_rate": rate}
    file = write_project(tmp_path, 90, name=method, base=base, train=train, evaluate=EVALUATE)
    outcome = run(Project.load(file), home)
    assert outcome.promoted, outcome.refused
    assert outcome.outputs["plan"]["chosen"].startswith(f"{method} on ")
    verified = outcome.outputs["verify"]
    assert verified["base_difference"] > 5 * verified["tolerance"]
    assert verified["merged_difference"] <= verified["merged_tolerance"]


def test_dpo_widens_the_margin_on_held_out_pairs(home: Home, base: str, tmp_path: Path) -> None:
    train = TRAIN | {"objective": "dpo"}
    evaluate = EVALUATE | {"gate": "preference"}
    file = write_project(tmp_path, name="dpo", base=base, train=train, evaluate=evaluate)
    write_pairs(tmp_path / "tickets.jsonl", 90)
    outcome = run(Project.load(file), home)
    assert outcome.promoted, outcome.refused
    evidence = outcome.outputs["gate"]["evidence"]
    assert evidence["measure"] == "preference"
    gained = [one - other for _, one, other in evidence["holdout"]]
    assert sum(gained) / len(gained) > 0.1
    with closing(outcome.home.database()) as database, database.read() as connection:
        [report] = reports.of_version(connection, outcome.outputs["register"]["version"], "holdout")
    assert report.summary["margin"] is not None
    assert 0 <= report.summary["prefers_gold"] <= 1
