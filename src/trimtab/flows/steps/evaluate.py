"""evaluate: base, base with shots, incumbent and candidate answer the same held-out items."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from trimtab.data.record import Record
from trimtab.evaluate.holdout import run_holdout
from trimtab.evaluate.items import Item, choose_shots
from trimtab.evaluate.performance import run_performance
from trimtab.evaluate.report import Report
from trimtab.evaluate.safety import run_safety
from trimtab.flows.serving import version_files
from trimtab.flows.work import Outputs, Result, Work
from trimtab.inference import Engine, Message
from trimtab.registry import reports, versions
from trimtab.registry.reports import ReportEntry
from trimtab.registry.versions import ModelVersion
from trimtab.store.database import Connection


@dataclass(frozen=True)
class Contestant:
    """A version to measure under a name; `full` runs every suite, else the holdout alone."""

    name: str
    version: ModelVersion
    shots: tuple[Message, ...] = ()
    full: bool = True


def inputs(work: Work, outputs: Outputs) -> dict[str, Any]:
    return {
        "dataset": outputs["data"]["dataset"],
        "versions": outputs["register"],
        "engine": work.engine_release,
        "evaluate": work.project.evaluate.model_dump(),
    }


def work(work: Work, outputs: Outputs) -> Result:
    dataset = work.dataset(outputs)
    items = items_of(dataset.holdout)
    contestants = _contestants(work, outputs, items_of(dataset.train))
    measured = work.ask(lambda engine: _measure(work, engine, contestants, items))
    entries = {
        name: {report.suite_kind: _entry(work, outputs, report.report) for report in found}
        for name, found in measured.items()
    }
    output = {
        name: {kind: entry.hash for kind, entry in found.items()} for name, found in entries.items()
    }
    shares = [
        f"{name} {found['holdout'].summary['exact_match']:.0%}" for name, found in entries.items()
    ]
    line = f"exact match of {len(items)} items: {', '.join(shares)}"
    rows = [entry for found in entries.values() for entry in found.values()]
    return Result(output, line, partial(_write, rows))


def items_of(records: Sequence[Record]) -> list[Item]:
    """Records as the suites ask them."""
    return [Item(record.hash, record.prompt, record.answer) for record in records]


@dataclass(frozen=True)
class _Kind:
    """A report under the key that the later steps look for."""

    suite_kind: str
    report: Report[Any]


def _contestants(work: Work, outputs: Outputs, train: list[Item]) -> list[Contestant]:
    """The base is always measured, for people; the incumbent is what the gate compares with."""
    section, registered = work.project.evaluate, outputs["register"]
    with work.database.read() as connection:
        base, incumbent, candidate = (
            versions.get(connection, registered[key])
            for key in ("base_version", "incumbent", "version")
        )
    found = [Contestant("base", base)]
    if section.shots:
        shots = choose_shots(train, section.shots, section.match)
        found.append(Contestant(f"base with {section.shots} shots", base, shots, full=False))
    if incumbent.hash != base.hash:
        found.append(Contestant("incumbent", incumbent))
    return [*found, Contestant("candidate", candidate)]


async def _measure(
    work: Work, engine: Engine, contestants: Sequence[Contestant], items: Sequence[Item]
) -> dict[str, list[_Kind]]:
    found = {}
    for contestant in contestants:
        await engine.load(version_files(work.home, contestant.version, work.base.folder))
        found[contestant.name] = await _suites(work, engine, contestant, items)
    return found


async def _suites(
    work: Work, engine: Engine, contestant: Contestant, items: Sequence[Item]
) -> list[_Kind]:
    section, version = work.project.evaluate, contestant.version.hash
    limit = section.max_tokens
    holdout = await run_holdout(
        engine,
        version,
        work.chat,
        items,
        section.match,
        limit,
        contestant.shots,
        on_item=_counter(work, f"{contestant.name}: holdout", len(items)),
    )
    kinds = [_Kind("holdout", holdout)]
    if contestant.full and "safety" in section.suites:
        safety = await run_safety(engine, version, work.chat, limit)
        kinds.append(_Kind("safety", safety))
    if contestant.full and "performance" in section.suites:
        performance = await run_performance(engine, version, work.chat, items, limit)
        kinds.append(_Kind("performance", performance))
    return kinds


def _counter(work: Work, what: str, total: int) -> Callable[[], None]:
    done = 0

    def count() -> None:
        nonlocal done
        done += 1
        work.watch.advanced(what, done, total, f"{done} of {total} items")

    return count


def _entry(work: Work, outputs: Outputs, report: Report[Any]) -> ReportEntry:
    return ReportEntry(
        hash=report.hash,
        suite=report.suite,
        version_hash=report.version,
        runtime=report.runtime,
        items=work.home.blobs.put_bytes(report.items_json()),
        summary=report.summary,
        dataset_hash=outputs["data"]["dataset"],
    )


def _write(rows: Sequence[ReportEntry], connection: Connection) -> None:
    for row in rows:
        reports.add(connection, row)
