"""The loop with methods whose result is served otherwise than a LoRA adapter is."""

from contextlib import closing
from pathlib import Path

from tests.tiny_project import write_project
from trimtab.flows.loop import run
from trimtab.project import Project
from trimtab.registry import bases, deployments, versions

TRAIN = {"learning_rate": 0.01, "epochs": 1, "batch_size": 8}


def test_full_fine_tuning_ends_in_a_base_of_its_own(tmp_path: Path) -> None:
    file = write_project(tmp_path, train=TRAIN | {"method": "full", "learning_rate": 0.001})
    outcome = run(Project.load(file))
    assert outcome.promoted, outcome.refused
    registered = outcome.outputs["register"]
    with closing(outcome.home.database()) as database, database.read() as connection:
        version = versions.get(connection, registered["version"])
        began = versions.get(connection, registered["base_version"])
        base = bases.get(connection, version.spec.base)
        live = deployments.get(connection, "tiny").live
    assert live == version.hash
    assert version.spec.adapter is None
    assert version.spec.base != began.spec.base
    assert base.source == {"run": version.run_id, "base": began.spec.base}
    assert base.folder.parent == outcome.home.bases
    verified = outcome.outputs["verify"]
    assert verified["base_difference"] > 5 * verified["tolerance"]
