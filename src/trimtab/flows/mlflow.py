"""A run as MLflow keeps one, told by messages of the outbox, each of which may come twice.

Once a point as far as MLflow allows: the run is found again by a tag, and what may have arrived is
looked up before it is sent again. Its own time-outs are short and it retries nothing, for the
outbox does. Imports mlflow; its telemetry is switched off.
"""

import json
import os
from collections.abc import Sequence
from itertools import groupby
from typing import Any

from trimtab.store.outbox import Message

QUIET = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "GIT_PYTHON_REFRESH": "quiet",
}
TAG = "trimtab.run"
# As many metrics as one call of log_batch takes.
MOST = 1000


def deliver(uri: str, messages: Sequence[Message]) -> None:
    """Tell a tracking server, or whatever store a URI names; empty is MLFLOW_TRACKING_URI.

    Raises whatever mlflow raises; the messages before the failure may have arrived.
    """
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    from mlflow.tracking import MlflowClient

    client = MlflowClient(tracking_uri=uri or None)
    parsed = [(json.loads(message.payload), message.attempts > 0) for message in messages]
    for run, group in groupby(parsed, key=lambda each: str(each[0]["run"])):
        _deliver_run(client, run, list(group))


def _deliver_run(client: Any, run: str, messages: list[tuple[dict[str, Any], bool]]) -> None:
    from mlflow.entities import Metric, Param

    known = _run_id(client, run, messages[0][0])
    metrics = [
        Metric(name, value, content["time_ms"], content["step"])
        for content, _ in messages
        for name, value in content.get("metrics", {}).items()
    ]
    if any(doubtful for _, doubtful in messages):
        there = _there(client, known, {metric.key for metric in metrics})
        metrics = [metric for metric in metrics if (metric.key, metric.step) not in there]
    for content, _ in messages:
        params = [Param(name, str(value)) for name, value in content.get("params", {}).items()]
        if params:
            client.log_batch(known, params=params)
    for start in range(0, len(metrics), MOST):
        client.log_batch(known, metrics=metrics[start : start + MOST])
    for content, _ in messages:
        if "status" in content:
            client.set_terminated(known, content["status"], content["time_ms"])


def _run_id(client: Any, run: str, content: dict[str, Any]) -> str:
    """MLflow's id of a run, which is made where there is none."""
    name = content["experiment"]
    found = client.get_experiment_by_name(name)
    experiment = found.experiment_id if found else client.create_experiment(name)
    there = client.search_runs([experiment], f"tags.`{TAG}` = '{run}'", max_results=1)
    if there:
        return str(there[0].info.run_id)
    made = client.create_run(
        experiment, start_time=content["time_ms"], tags={TAG: run}, run_name=run[:12]
    )
    return str(made.info.run_id)


def _there(client: Any, run_id: str, names: set[str]) -> set[tuple[str, int]]:
    return {
        (name, metric.step) for name in names for metric in client.get_metric_history(run_id, name)
    }
