"""The whole loop on a tiny model: what it leaves behind, and what a second run does."""

import json
import os
import platform
import sys
from contextlib import closing, suppress
from decimal import Decimal
from importlib import metadata
from pathlib import Path

import pytest

from tests.loop.conftest import Looped, Record
from tests.tiny_project import write_project, write_records
from trimtab.cli.app import main
from trimtab.cli.summary import print_summary
from trimtab.deploy.promote import rollback
from trimtab.errors import DataError, InUse, StorageFull, UserError
from trimtab.flows.export import export
from trimtab.flows.loop import Outcome, run
from trimtab.flows.page import write_page
from trimtab.flows.serving import package_of
from trimtab.flows.status import status
from trimtab.flows.steps import STEPS
from trimtab.ledger.money import Price, nano, usd
from trimtab.ledger.own import spent
from trimtab.ledger.prices import price_of, set_price
from trimtab.project import Project
from trimtab.registry import deployments, versions
from trimtab.registry.identity import adapter_hash, parameter_count
from trimtab.store.home import Home


def test_every_step_is_done_in_order_and_the_candidate_is_live(
    looped: Looped,
) -> None:
    project, outcome, watch = looped
    assert watch.done == [step.name for step in STEPS]
    assert outcome.promoted
    database = outcome.home.database()
    with database.read() as connection:
        deployment = deployments.get(connection, project.deployment)
        live = versions.get(connection, deployment.live)
    assert live.hash == outcome.outputs["register"]["version"]
    assert live.state == "live"
    assert deployment.idle == outcome.outputs["register"]["base_version"]
    database.close()


def test_a_second_run_does_nothing_again(looped: Looped) -> None:
    project, first, _ = looped
    watch = Record()
    second = run(project, watch=watch)
    assert watch.done == []
    assert watch.again == [step.name for step in STEPS]
    assert second.outputs == first.outputs


def test_what_is_trained_is_told_in_parameters_and_their_share(looped: Looped) -> None:
    """Counted anew in the files: those of the adapter, and those with the base's."""
    project, outcome, _ = looped
    lines = Lines()
    run(project, until="train", watch=lines)
    with closing(outcome.home.database()) as database, database.read() as connection:
        version = versions.get(connection, outcome.outputs["register"]["version"])
    adapter = parameter_count(package_of(outcome.home, version).adapter)
    total = parameter_count(project.root / "base") + adapter
    told = f"{adapter:,} of {total:,} parameters trained ({adapter / total:.2%})"
    assert told in lines.heard["train"]


class Lines(Record):
    """Keeps what is said of each step."""

    def __init__(self) -> None:
        super().__init__()
        self.heard: dict[str, str] = {}

    def skipped(self, step: str, line: str) -> None:
        self.heard[step] = line


def test_a_run_is_made_again_from_its_record_alone(looped: Looped, tmp_path: Path) -> None:
    """All that decides a run stands in the record, which is kept under its hash: the file of its
    project is not needed, and what is trained from the record has the same hash.
    """
    project, outcome, _ = looped
    data, plan, trained = (outcome.outputs[step] for step in ("data", "plan", "train"))
    record = json.loads(outcome.home.blobs.read_bytes(trained["record"]))
    assert Project.model_validate(record["project"]).model_dump() == project.model_dump()
    assert record["seed"] == record["settings"]["seed"] == project.train.seed
    assert (record["dataset"], record["plan"]) == (data["dataset"], plan["plan"])
    assert (record["base"], record["chosen"]) == (trained["base"], plan["chosen"])
    assert record["release"] == metadata.version("trimtab")
    assert record["python"] == platform.python_version()
    assert {"torch", "transformers", "trl", "peft"} <= record["libraries"].keys()
    assert all(metadata.version(name) == it for name, it in record["libraries"].items())
    for name in ("base", "tickets.jsonl"):
        (tmp_path / name).symlink_to(project.root / name)
    (tmp_path / "trimtab.yaml").write_text(json.dumps(record["project"]))
    again = run(Project.load(tmp_path / "trimtab.yaml"), until="train").outputs
    assert again["data"]["dataset"] == record["dataset"]
    assert json.loads(json.dumps(again["plan"]["launch"])) == record["settings"]["launch"]
    assert [again["train"][it] for it in ("run", "adapter")] == [trained["run"], trained["adapter"]]


def test_a_version_leaves_for_other_engines(looped: Looped, tmp_path: Path) -> None:
    outcome = looped.outcome
    made, base = (outcome.outputs["register"][it] for it in ("version", "base_version"))
    with closing(outcome.home.database()) as database, database.read() as connection:
        assert export(outcome.home, connection, made[:12], tmp_path / "peft") == made
        export(outcome.home, connection, made, tmp_path / "new" / "adapter.gguf")
        with pytest.raises(UserError, match="has no adapter"):
            export(outcome.home, connection, base, tmp_path / "base")
        with pytest.raises(UserError, match="there already"):
            export(outcome.home, connection, made, tmp_path / "peft")
    assert (
        adapter_hash(tmp_path / "peft", outcome.outputs["train"]["base"])
        == (outcome.outputs["train"]["adapter"])
    )
    assert (tmp_path / "new" / "adapter.gguf").read_bytes()[:4] == b"GGUF"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["new", "peft"]


@pytest.mark.parametrize("name", ["peft", "adapter.gguf"])
@pytest.mark.parametrize("room", [0, 1 << 15])
def test_an_export_to_a_full_disk_leaves_nothing(
    looped: Looped, tiny_disk: Path, name: str, room: int
) -> None:
    """Not even where there is room for the beginning of it."""
    outcome = looped.outcome
    made = outcome.outputs["register"]["version"]
    filler = tiny_disk / "filler"
    with suppress(OSError), filler.open("wb") as file:
        while True:
            file.write(bytes(1 << 16))
    os.truncate(filler, filler.stat().st_size - room)
    with closing(outcome.home.database()) as database, database.read() as connection:
        with pytest.raises(StorageFull, match=name):
            export(outcome.home, connection, made, tiny_disk / name)
        with pytest.raises(UserError, match="filler"):
            export(outcome.home, connection, made, filler / name)
    assert list(tiny_disk.iterdir()) == [filler]


def test_the_page_is_named_as_it_is(looped: Looped, capsys: pytest.CaptureFixture[str]) -> None:
    """Brackets in a path are none of the terminal's colours."""
    print_summary(looped.outcome, Path("/tmp/run [x]/report.html"))
    assert "/tmp/run [x]/report.html\n" in capsys.readouterr().out


def test_status_tells_what_is_live_and_why(looped: Looped) -> None:
    project, outcome, _ = looped
    database = outcome.home.database()
    [found] = status(database, project)["deployments"]
    database.close()
    assert found["live"]["model_version"] == outcome.outputs["register"]["version"]
    assert found["live"]["why"] == outcome.outputs["promote"]["why"]
    assert found["live"]["exact_match"] is not None
    assert found["live"]["base_exact_match"] is not None
    assert found["slo"]["latency"] == "no data"


def test_the_page_shows_the_version_and_every_item_is_escaped(
    looped: Looped,
) -> None:
    _, outcome, _ = looped
    page = write_page(outcome).read_text()
    assert outcome.outputs["register"]["version"][:12] in page
    assert "<script" not in page


def test_a_change_of_data_runs_the_loop_anew_against_what_is_live(
    home: Home, base: str, tmp_path: Path
) -> None:
    train = {"learning_rate": 0.01, "epochs": 1, "batch_size": 8, "usd_hour": 36}
    file = write_project(tmp_path, 90, name="changes", base=base, train=train)
    first = run(Project.load(file), home)
    _set_price(first, Price(3, 7))
    write_records(tmp_path / "tickets.jsonl", 100)
    watch = Record()
    second = run(Project.load(file), home, watch=watch)
    assert "train" in watch.done
    assert second.outputs["register"]["incumbent"] == first.outputs["register"]["version"]
    measured, again = first.outputs["evaluate"], second.outputs["evaluate"]
    assert again["base"]["safety"] == measured["base"]["safety"]
    assert again["incumbent"]["safety"] == measured["candidate"]["safety"]
    assert again["candidate"]["safety"] != measured["candidate"]["safety"]
    # Two tiny models of nearly the same records: whatever the gate says, it says it of this pair.
    evidence = second.outputs["gate"]["evidence"]
    assert evidence["incumbent"]["version"] == first.outputs["register"]["version"]
    database = second.home.database()
    [told] = [it for it in status(database)["deployments"] if it["name"] == "changes"]
    with database.read() as connection:
        spending = spent(connection, "changes")
        live = deployments.get(connection, "changes").live
        cost = price_of(connection, second.outputs["register"]["version"])
    database.close()
    # What was set by hand for the version before goes on.
    assert cost == Price(3, 7)
    # Training costs the machine's hours, and the second loop's questions their price a token.
    runs = [nano(Decimal(str(each.outputs["train"]["usd"]))) for each in (first, second)]
    assert spending["training"] == sum(runs) > 0
    asked = {kind for kind in spending if kind != "training"}
    assert {"verify", "evaluate"} <= asked <= {"verify", "evaluate", "shadow"}
    assert told["spent_usd"] == {kind: usd(it) for kind, it in spending.items()} | {"answers": 0}
    assert live == (second if second.promoted else first).outputs["register"]["version"]


def _set_price(outcome: Outcome, price: Price) -> None:
    version = outcome.outputs["register"]["version"]
    with closing(outcome.home.database()) as database, database.transaction() as connection:
        set_price(connection, version, price)


def test_two_runs_of_one_project_are_refused(looped: Looped) -> None:
    project, outcome, _ = looped
    with outcome.home.lock(project.name), pytest.raises(InUse, match="tiny"):
        run(project)


def test_bad_records_stop_the_loop_before_anything_is_trained(tmp_path: Path) -> None:
    file = write_project(tmp_path)
    with (tmp_path / "tickets.jsonl").open("a") as records:
        records.write(json.dumps({"prompt": "and now?"}) + "\n")
    with pytest.raises(DataError, match=r"tickets\.jsonl:161: no answer"):
        run(Project.load(file))
    assert not any((tmp_path / ".trimtab" / "runs").glob("*"))


def test_a_gate_that_is_not_better_ends_the_loop(
    home: Home, base: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    evaluate = {"suites": ["holdout"], "match": ["intent"], "gate": "exact_match", "shots": 0}
    evaluate |= {"max_tokens": 4}
    # Of other records than its neighbour's, so that it learns a version of its own.
    file = write_project(tmp_path, 80, name="level", base=base, evaluate=evaluate)
    outcome = run(Project.load(file), home)
    assert not outcome.promoted
    assert "cannot tell" in outcome.refused
    with closing(home.database()) as database, database.read() as connection:
        live = deployments.get(connection, "level").live
    assert live == outcome.outputs["register"]["base_version"]
    for verb in ("evaluate", "run"):
        monkeypatch.setattr(sys, "argv", ["trimtab", verb, str(file), "--home", str(home.root)])
        with pytest.raises(SystemExit) as ended:
            main()
        assert ended.value.code == 3


def test_a_new_release_proves_the_live_version_again_and_measures_nothing_twice(
    looped: Looped, monkeypatch: pytest.MonkeyPatch
) -> None:
    project, first, _ = looped
    monkeypatch.setattr("trimtab.flows.loop.__version__", "0.1.0.post1")
    watch = Record()
    again = run(project, watch=watch)
    assert watch.done == [step.name for step in STEPS]
    assert again.promoted
    assert again.outputs["evaluate"] == first.outputs["evaluate"]
    with closing(again.home.database()) as database, database.read() as connection:
        assert versions.get(connection, again.outputs["register"]["version"]).state == "live"


def test_a_version_that_was_rolled_back_is_not_said_to_be_live(looped: Looped) -> None:
    """The last one: it changes what is live."""
    project, first, _ = looped
    candidate = first.outputs["register"]["version"]
    with closing(first.home.database()) as database, database.transaction() as connection:
        rollback(connection, project.deployment, candidate, "wrong words")
    again = run(project)
    assert not again.promoted
    assert "rolled back" in again.refused
    assert "wrong words" in again.refused
    assert (
        f"{first.outputs['register']['base_version'][:12]} is live" in write_page(again).read_text()
    )
