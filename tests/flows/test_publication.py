"""Runs told to MLflow's own SQL store and to TensorBoard's own reader, and to nobody at all."""

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tests.tiny_project import write_project
from trimtab.errors import ProjectError
from trimtab.flows import publication, publishing
from trimtab.flows.loop import Outcome, run
from trimtab.project import Project
from trimtab.store import outbox

READER = """
import json, sys
from mlflow.tracking import MlflowClient
client = MlflowClient(tracking_uri=sys.argv[1])
found = client.search_runs([client.get_experiment_by_name("tiny").experiment_id])
seen = []
for each in found:
    history = client.get_metric_history(each.info.run_id, "loss")
    seen.append({"status": each.info.status, "params": each.data.params, "tags": each.data.tags,
                 "metrics": sorted(each.data.metrics),
                 "loss": [[m.step, m.value] for m in history]})
json.dump(seen, sys.stdout)
"""


def in_mlflow(uri: str) -> list[dict[str, Any]]:
    """What MLflow's own client reads, in a process of its own."""
    read = subprocess.run(
        [sys.executable, "-c", READER, uri], capture_output=True, text=True, timeout=120, check=True
    )
    found: list[dict[str, Any]] = json.loads(read.stdout)
    return found


def project(folder: Path, *publish: str) -> Project:
    train = {"batch_size": 8, "epochs": 0.5, "publish": list(publish)}
    return Project.load(write_project(folder, 90, train=train))


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Outcome, str]]:
    """A run that is told to TensorBoard, and to MLflow's SQL store."""
    folder = tmp_path_factory.mktemp("told")
    uri = f"sqlite:///{folder}/mlflow.db"
    with pytest.MonkeyPatch.context() as patch:
        # MLflow makes its tables at the first call, which takes it seconds.
        patch.setattr(publication, "LAST_S", 90.0)
        yield run(project(folder, "tensorboard", f"mlflow:{uri}"), until="train"), uri


def losses(outcome: Outcome) -> list[list[float]]:
    curve = outcome.home.blobs.read_bytes(outcome.outputs["train"]["curve"])
    return [[point["step"], point["loss"]] for point in json.loads(curve)]


def test_mlflow_has_every_step_once(told: tuple[Outcome, str]) -> None:
    outcome, uri = told
    [found] = in_mlflow(uri)
    assert found["loss"] == losses(outcome)
    assert found["status"] == "FINISHED"
    assert found["params"]["rank"] == "16"
    assert found["tags"]["trimtab.run"] == outcome.outputs["train"]["run"]
    assert {"learning_rate", "gradient_norm", "mfu", "tokens_s"} <= {*found["metrics"]}


def test_what_may_have_arrived_is_not_there_twice(told: tuple[Outcome, str]) -> None:
    outcome, uri = told
    name = outcome.outputs["train"]["run"]
    step, loss = losses(outcome)[1]
    content = {"run": name, "experiment": "tiny", "time_ms": 1, "step": step}
    twice = json.dumps(content | {"metrics": {"loss": loss, "fresh": 1.0}})
    with closing(outcome.home.database()) as database, database.transaction() as connection:
        # As if the deliverer had been killed behind its call and before it could note it.
        assert outbox.put(connection, f"mlflow:{uri}", f"{name}/again", twice, 1)
        outbox.trying(connection, outbox.of_topic(connection, f"mlflow:{uri}", 10))
    left = subprocess.run(
        [sys.executable, "-m", "trimtab", "publish", "--home", str(outcome.home.root)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (left.returncode, left.stdout) == (0, "all points are delivered\n"), left.stderr
    [found] = in_mlflow(uri)
    assert found["loss"] == losses(outcome)
    assert "fresh" in found["metrics"]


def test_tensorboard_reads_every_step(told: tuple[Outcome, str]) -> None:
    from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

    outcome, _ = told
    [file] = (outcome.home.runs / outcome.outputs["train"]["run"] / "events").iterdir()
    read = [
        [event.step, event.summary.value[0].tensor.float_val[0]]
        for event in EventFileLoader(str(file)).Load()
        if event.summary.value and event.summary.value[0].tag == "loss"
    ]
    assert [step for step, _ in read] == [step for step, _ in losses(outcome)]
    assert [loss for _, loss in read] == pytest.approx([loss for _, loss in losses(outcome)])


def test_a_tracker_that_is_down_costs_the_run_nothing_and_the_points_wait(tmp_path: Path) -> None:
    outcome = run(project(tmp_path, "mlflow:http://127.0.0.1:9"), until="train")
    steps = outcome.outputs["train"]["steps"]
    with closing(outcome.home.database()) as database, database.read() as connection:
        waiting = outbox.of_topic(connection, "mlflow:http://127.0.0.1:9", 100)
    assert len(waiting) == steps + 2
    assert [json.loads(each.payload).get("step") for each in waiting[1:-1]] == [
        *range(1, steps + 1)
    ]
    left = subprocess.run(
        [sys.executable, "-m", "trimtab", "publish", "--home", str(outcome.home.root)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert left.returncode == 2
    assert f"{steps + 2} points still wait: mlflow:http://127.0.0.1:9" in left.stderr


def test_a_package_that_is_missing_is_named_before_anything_is_spent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(publication, "find_spec", lambda name: None)
    with pytest.raises(ProjectError, match="tensorboard is not installed") as caught:
        run(project(tmp_path, "tensorboard"), until="train")
    assert "trimtab[tensorboard]" in caught.value.hint
    assert publishing.MLFLOW == "mlflow:"
