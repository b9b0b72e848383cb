"""promote: one compare-and-set makes the candidate live; the version before it stays warm."""

from functools import partial
from typing import Any

from trimtab.canonical import short
from trimtab.deploy.promote import promote
from trimtab.deploy.shadow import ShadowResult
from trimtab.evaluate.gate import Gate, decide
from trimtab.flows.work import Outputs, Result, Work
from trimtab.registry import deployments
from trimtab.store.database import Connection


def inputs(work: Work, outputs: Outputs) -> dict[str, Any]:
    return {
        "deployment": work.project.deployment,
        "gate": outputs["gate"]["gate"],
        "shadow": dict(outputs["shadow"]),
    }


def work(work: Work, outputs: Outputs) -> Result:
    """The swap itself happens in `write`, in the transaction that marks this step done."""
    gate = decide(outputs["gate"]["evidence"])
    candidate = outputs["register"]["version"]
    line = f"{short(candidate)} is live at '{work.project.deployment}': {gate.reason}"
    output = {"live": candidate, "why": gate.reason}
    shadow = ShadowResult(**outputs["shadow"], items=())
    return Result(output, line, partial(_write, work.project.deployment, gate, shadow))


def _write(name: str, gate: Gate, shadow: ShadowResult, connection: Connection) -> None:
    """What was proved holds for the pair of versions, at whatever generation they meet."""
    generation = deployments.get(connection, name).generation
    promote(connection, name, generation, gate, shadow)
