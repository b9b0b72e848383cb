import pytest

from tests.registry.entries import add_base, add_version, spec
from trimtab.canonical import digest
from trimtab.errors import NotFound, StoreError
from trimtab.registry import datasets, deployments, gates, reports, versions
from trimtab.registry.datasets import DatasetEntry, SourceLine
from trimtab.registry.gates import GateEntry
from trimtab.registry.lineage import trace
from trimtab.registry.reports import ReportEntry
from trimtab.registry.versions import ModelVersion
from trimtab.store.database import Connection, Database

DATASET = DatasetEntry(
    digest(b"dataset"), "desk", {"seed": 17}, digest(b"manifest"), {"train": 2}, created_us=1
)
LINES = [
    SourceLine(digest(b"one"), "train", "tickets.jsonl", 1),
    SourceLine(digest(b"two"), "train", "tickets.jsonl", 2),
]


def whole_chain(connection: Connection) -> str:
    add_base(connection)
    datasets.add(connection, DATASET, LINES)
    incumbent = add_version(connection, None, "unverified")
    trained = ModelVersion(
        spec("a"), "desk", run_id="run-1", dataset_hash=DATASET.hash, state="shadow"
    )
    versions.add(connection, trained)
    report = ReportEntry(
        digest(b"report"), "holdout", trained.hash, "cpu", digest(b"items"), {"exact": 0.8}
    )
    assert reports.add(connection, report)
    assert not reports.add(connection, report)
    gate = GateEntry(
        digest(b"gate"), "desk", trained.hash, incumbent, "better", {"p": 0.01}, created_us=3
    )
    assert gates.add(connection, gate)
    assert gates.of_candidate(connection, trained.hash) == (gate,)
    assert reports.get(connection, report.hash) == report
    assert reports.of_version(connection, trained.hash, "safety") == ()
    deployments.create(connection, "desk", "desk", incumbent)
    deployments.promote(connection, "desk", trained.hash, 1, "better", {})
    return trained.hash


@pytest.mark.parametrize("name", ["version", "prefix", "upper", "run-1", "dataset", "record"])
def test_any_name_leads_to_the_whole_chain(database: Database, name: str) -> None:
    with database.transaction() as connection:
        version = whole_chain(connection)
        names = {
            "version": version,
            "prefix": version[:8],
            "upper": version[:20].upper(),
            "dataset": DATASET.hash,
            "record": LINES[1].record[:20],
        }
        (lineage,) = trace(connection, names.get(name, name))
    assert lineage.version.hash == version
    assert lineage.version.run_id == "run-1"
    assert list(lineage.lines) == (LINES[1:] if name == "record" else LINES)
    assert [report.suite for report in lineage.reports] == ["holdout"]
    assert [gate.verdict for gate in lineage.gates] == ["better"]
    assert [(event.deployment, event.kind) for event in lineage.events] == [("desk", "promoted")]


@pytest.mark.parametrize("name", ["", "desk", "%", "%" * 64, "0" * 64])
def test_a_name_that_nobody_has_is_told(database: Database, name: str) -> None:
    with database.transaction() as connection:
        whole_chain(connection)
        with pytest.raises(NotFound, match="nothing has the name"):
            trace(connection, name)


def test_a_dataset_comes_back_as_it_was_registered(database: Database) -> None:
    with database.transaction() as connection:
        assert datasets.add(connection, DATASET, LINES)
        assert not datasets.add(connection, DATASET, LINES)
        assert datasets.get(connection, DATASET.hash[:8]) == DATASET


def test_a_dataset_is_registered_with_its_records_or_not_at_all(database: Database) -> None:
    with pytest.raises(StoreError), database.transaction() as connection:
        datasets.add(connection, DATASET, [*LINES, LINES[0]])
    with database.read() as connection, pytest.raises(NotFound):
        datasets.get(connection, DATASET.hash)
