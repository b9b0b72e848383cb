"""evaluate: base, base with shots, incumbent and candidate answer the same held-out items.

A report that the registry holds already is taken as it is: of the same version and runtime, by the
same engine libraries, with the same items under the same settings. Each new one is committed when
it is measured, so that a loop that was killed goes on behind its last whole suite.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

from trimtab.data.record import Record
from trimtab.evaluate.asking import OnItem
from trimtab.evaluate.holdout import holdout_settings, run_holdout, suite_name
from trimtab.evaluate.items import Item, choose_shots
from trimtab.evaluate.performance import REQUESTS, performance_settings, run_performance
from trimtab.evaluate.report import Report
from trimtab.evaluate.safety import run_safety, safety_prompts, safety_settings
from trimtab.flows.work import Contestant, Outputs, Result, Work
from trimtab.inference import Message
from trimtab.registry import reports
from trimtab.registry.reports import ReportEntry


@dataclass(frozen=True)
class Suite:
    """One suite as it is put to one version; `kind` is the key that the later steps look for.

    `settings` are what its report will say of itself, known before it is run.
    """

    kind: str
    name: str
    settings: dict[str, Any]
    items: int
    run: Callable[[OnItem], Awaitable[Report[Any]]]


def inputs(work: Work, outputs: Outputs) -> dict[str, Any]:
    return {
        "dataset": outputs["data"]["dataset"],
        "versions": outputs["register"],
        "engine": work.engine_release,
        "backend": asdict(work.backend),
        "evaluate": work.project.evaluate.model_dump(),
    }


def work(work: Work, outputs: Outputs) -> Result:
    """The base is always measured, for people; the incumbent is what the gate compares with."""
    section, registered, dataset = work.project.evaluate, outputs["register"], work.dataset(outputs)
    items = items_of(dataset.holdout)
    measure = partial(_measure, work, outputs["data"]["dataset"], items)
    base = work.contestant(registered["base_version"])
    found = {"base": measure("base", base)}
    if section.shots:
        shots = choose_shots(items_of(dataset.train), section.shots, section.match)
        name = f"base with {section.shots} shot{'s' if section.shots > 1 else ''}"
        found[name] = measure(name, base, shots)
    if registered["incumbent"] != registered["base_version"]:
        found["incumbent"] = measure("incumbent", work.contestant(registered["incumbent"]))
    found["candidate"] = measure("candidate", work.contestant(registered["version"]))
    output = {name: {kind: r.hash for kind, r in of.items()} for name, of in found.items()}
    return Result(output, _line(found, len(items)))


def items_of(records: Sequence[Record]) -> list[Item]:
    """Records as the suites ask them; an answer that was found bad is no yardstick."""
    return [
        Item(record.hash, record.prompt, record.answer, record.rejected)
        for record in records
        if record.label is not False
    ]


def _measure(
    work: Work,
    dataset: str,
    items: Sequence[Item],
    name: str,
    contestant: Contestant,
    shots: Sequence[Message] = (),
) -> dict[str, ReportEntry]:
    """Every suite of the project on one version; with shots in the prompt the holdout alone."""
    suites = _suites(work, contestant, items, shots)
    return {suite.kind: _report(work, dataset, name, contestant, suite) for suite in suites}


def _suites(
    work: Work, contestant: Contestant, items: Sequence[Item], shots: Sequence[Message]
) -> list[Suite]:
    section = work.project.evaluate
    match, limit = section.match, section.max_tokens
    to = contestant.engine, contestant.files.version, contestant.chat
    holdout = Suite(
        "holdout",
        suite_name(shots),
        holdout_settings(items, match, limit, shots),
        len(items),
        lambda count: run_holdout(*to, items, match, limit, shots, count),
    )
    safety = Suite(
        "safety",
        "safety",
        safety_settings(limit),
        len(safety_prompts()),
        lambda count: run_safety(*to, limit, on_item=count),
    )
    performance = Suite(
        "performance",
        "performance",
        performance_settings(items, limit),
        min(REQUESTS, len(items)),
        lambda count: run_performance(*to, items, limit, on_item=count),
    )
    if shots:
        return [holdout]
    return [suite for suite in (holdout, safety, performance) if suite.kind in section.suites]


def _report(
    work: Work, dataset: str, name: str, contestant: Contestant, suite: Suite
) -> ReportEntry:
    """The report that is known, else one that is measured now and committed at once."""
    version = contestant.files.version
    runtime = asyncio.run(contestant.engine.capabilities()).runtime.name
    with work.database.read() as connection:
        for known in reports.of_version(connection, version, suite.name):
            made_by = known.summary.get("engine"), known.summary["settings"]
            if known.runtime == runtime and made_by == (work.engine_release, suite.settings):
                return known
    count = _counter(work, f"{name}: {suite.kind}", suite.items)
    measured = asyncio.run(_loaded(contestant, suite, count))
    report = replace(measured, summary=measured.summary | {"engine": work.engine_release})
    entry = ReportEntry(
        hash=report.hash,
        suite=report.suite,
        version_hash=report.version,
        runtime=report.runtime,
        items=work.home.blobs.put_bytes(report.items_json()),
        summary=report.summary,
        dataset_hash=dataset,
    )
    with work.database.transaction() as connection:
        reports.add(connection, entry)
    return entry


async def _loaded(contestant: Contestant, suite: Suite, count: OnItem) -> Report[Any]:
    await contestant.engine.load(contestant.files)
    return await suite.run(count)


def _counter(work: Work, what: str, total: int) -> OnItem:
    done = 0

    def count() -> None:
        nonlocal done
        done += 1
        work.watch.advanced(what, done, total, f"{done} of {total} items")

    return count


def _line(found: dict[str, dict[str, ReportEntry]], items: int) -> str:
    shares = []
    for name, of in found.items():
        summary = of["holdout"].summary
        refused = f" ({summary['refused']} refused)" if summary["refused"] else ""
        shares.append(f"{name} {summary['exact_match']:.0%}{refused}")
    return f"exact match of {items} items: {', '.join(shares)}"
