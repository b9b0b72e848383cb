"""gate: is the candidate better than the incumbent on the same items?"""

from functools import partial
from typing import Any

from trimtab.evaluate.evidence import gather
from trimtab.evaluate.gate import Gate, decide
from trimtab.evaluate.report import Report
from trimtab.flows.readings import read_report
from trimtab.flows.work import Outputs, Result, Work
from trimtab.registry import gates
from trimtab.registry.gates import GateEntry
from trimtab.store.database import Connection


def inputs(work: Work, outputs: Outputs) -> dict[str, Any]:
    return {
        "reports": outputs["evaluate"],
        "measure": work.project.evaluate.gate,
        "p95_ms": work.project.deploy.slo.p95_ms,
    }


def work(work: Work, outputs: Outputs) -> Result:
    found = decide(_evidence(work, outputs))
    output = {"gate": found.hash, "verdict": found.verdict, "evidence": found.evidence}
    line = f"{found.verdict}: {found.reason}"
    return Result(output, line, partial(_write, work.project.name, found))


def _evidence(work: Work, outputs: Outputs) -> dict[str, Any]:
    measured = outputs["evaluate"]
    candidate = _reports(work, measured["candidate"])
    incumbent = _reports(work, measured.get("incumbent", measured["base"]))
    safety = (candidate["safety"], incumbent["safety"]) if "safety" in candidate else None
    return gather(
        candidate["holdout"],
        incumbent["holdout"],
        measure=work.project.evaluate.gate,
        safety=safety,
        performance=candidate.get("performance"),
        p95_ms=work.project.deploy.slo.p95_ms,
    )


def _reports(work: Work, hashes: dict[str, str]) -> dict[str, Report[Any]]:
    return {
        kind: read_report(work.database, work.home.blobs, kind, content)
        for kind, content in hashes.items()
    }


def _write(project: str, found: Gate, connection: Connection) -> None:
    entry = GateEntry(
        hash=found.hash,
        project=project,
        candidate=found.evidence["candidate"]["version"],
        incumbent=found.evidence["incumbent"]["version"],
        verdict=found.verdict,
        evidence=found.evidence,
    )
    gates.add(connection, entry)
