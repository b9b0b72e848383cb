"""One test an arrow of the requirements: the hash that leaves a room is what the next one reads."""

import json
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from tests.loop.conftest import Looped
from tests.serving import Server, eventually, serving
from trimtab.data.dataset import Dataset
from trimtab.deploy.package import materialise
from trimtab.deploy.promote import rollback
from trimtab.flows.lineage import lineage
from trimtab.flows.status import status
from trimtab.journal import requests
from trimtab.registry import deployments, versions
from trimtab.store.database import Database

ASKED = {"prompt": "My lock is stuck.", "trace_id": "t-1", "session_id": "s-1", "user_id": "u-1"}


@pytest.fixture(scope="module")
def database(looped: Looped) -> Iterator[Database]:
    database = looped.outcome.home.database()
    yield database
    database.close()


@pytest.fixture(scope="module")
def server(looped: Looped) -> Iterator[Server]:
    with serving(looped.outcome.home.root) as server:
        yield server


def ask(server: Server, model: str) -> dict[str, Any]:
    answer = server.client.post("/v1/generate", json={"model": model, **ASKED})
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


def test_a01_the_dataset_holds_the_lines_of_the_source(looped: Looped) -> None:
    made = looped.outcome.outputs["data"]
    dataset = Dataset.from_manifest(looped.outcome.home.blobs.read_bytes(made["manifest"]))
    assert dataset.hash == made["dataset"]
    lines = (looped.project.root / "tickets.jsonl").read_text().splitlines()
    for record in (*dataset.train, *dataset.holdout, *dataset.shadow):
        assert json.loads(lines[record.line - 1])["prompt"] == record.asked


def test_a02_the_run_is_trained_on_the_dataset_by_hash(looped: Looped, database: Database) -> None:
    outputs = looped.outcome.outputs
    with database.read() as connection:
        version = versions.get(connection, outputs["register"]["version"])
    assert version.dataset_hash == outputs["data"]["dataset"]
    assert version.run_id == outputs["train"]["run"]
    preflight = json.loads(
        (looped.outcome.home.runs / version.run_id / "preflight.json").read_text()
    )
    assert preflight["records"] == outputs["data"]["counts"]["train"]


def test_a03_the_registered_version_is_the_adapter_of_the_run(
    looped: Looped, database: Database
) -> None:
    outputs = looped.outcome.outputs
    with database.read() as connection:
        version = versions.get(connection, outputs["register"]["version"])
    assert version.spec.adapter == outputs["train"]["adapter"]


def test_a04_the_deployment_answers_with_the_registered_version(
    looped: Looped, database: Database
) -> None:
    registered = looped.outcome.outputs["register"]
    home = looped.outcome.home
    with database.read() as connection:
        live = deployments.get(connection, looped.project.deployment).live
    assert live == registered["version"]
    assert materialise(home.blobs, registered["package"], home.versions).spec.hash == live


def test_a05_the_api_answers_with_the_live_version(looped: Looped, server: Server) -> None:
    registered = looped.outcome.outputs["register"]
    by_name = ask(server, looped.project.deployment)
    assert (by_name["model_version"], by_name["tier"]) == (registered["version"], "adapter")
    base = ask(server, registered["base_version"])
    assert (base["model_version"], base["tier"]) == (registered["base_version"], "base")
    [model] = server.client.get("/v1/models").json()["models"]
    assert (model["name"], model["live"]) == (looped.project.deployment, registered["version"])


def test_a06_what_was_answered_is_what_is_watched(
    looped: Looped, server: Server, database: Database
) -> None:
    answer = ask(server, looped.project.deployment)
    with database.read() as connection:
        row = requests.get(connection, answer["id"])
    assert row.model_version == answer["model_version"]
    assert (row.trace_id, row.session_id, row.user_id) == ("t-1", "s-1", "u-1")
    assert row.latency_ms == pytest.approx(answer["latency_ms"], abs=1)
    [found] = status(database, looped.project)["deployments"]
    assert found["slo"]["requests"] >= 1
    assert found["slo"]["p95_ms"] > 0


def test_a08_one_id_leads_from_a_source_line_to_an_answer_and_back(
    looped: Looped, server: Server, database: Database
) -> None:
    outputs = looped.outcome.outputs
    answer = ask(server, looped.project.deployment)
    with database.read() as connection:
        [chain] = lineage(connection, answer["id"])
        trained = next(line for line in chain["lines"] if line["split"] == "train")
        [back] = lineage(connection, trained["record"])
    assert chain["dataset"] == outputs["data"]["dataset"]
    assert chain["run"] == outputs["train"]["run"]
    assert chain["adapter"] == outputs["train"]["adapter"]
    assert {gate["hash"] for gate in chain["gates"]} == {outputs["gate"]["gate"]}
    measured = set(outputs["evaluate"]["candidate"].values())
    assert measured <= {report["hash"] for report in chain["reports"]}
    assert [event["kind"] for event in chain["events"]][:2] == ["candidate", "promoted"]
    assert chain["answers"] >= 1
    assert (back["version"], back["answers"]) == (chain["version"], chain["answers"])
    assert trained["line"] in [line["line"] for line in back["lines"]]


def test_a07_a_rollback_by_what_was_seen_is_what_answers_next(
    looped: Looped, server: Server, database: Database
) -> None:
    """Behind the others that ask: it changes what is live."""
    name = looped.project.deployment
    registered = looped.outcome.outputs["register"]
    with database.transaction() as connection:
        rollback(connection, name, registered["version"], "latency")
    # A gateway looks for a new generation at most every 250 ms.
    eventually(lambda: ask(server, name)["model_version"] == registered["base_version"], 10)
    with database.read() as connection:
        [event, *_] = deployments.events(connection, name)
    assert (event.kind, event.why) == ("rolled back", "latency")


def test_the_command_line_traces_an_answer(looped: Looped, server: Server) -> None:
    answer = ask(server, looped.project.deployment)
    command = [sys.executable, "-m", "trimtab", "trace", answer["id"], "--json"]
    home = ["--home", str(looped.outcome.home.root)]
    done = subprocess.run([*command, *home], capture_output=True, text=True, check=True)
    [chain] = json.loads(done.stdout)["chains"]
    assert chain["version"] == answer["model_version"]
