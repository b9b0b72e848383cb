"""From any name to the whole chain as plain JSON: a source line to a served answer, and back."""

from typing import Any

from trimtab.errors import NotFound
from trimtab.journal import requests, words
from trimtab.registry.lineage import Lineage, trace
from trimtab.store.database import Connection


def lineage(connection: Connection, name: str) -> list[dict[str, Any]]:
    """The chains that a name leads to; an answer's id leads to the version that gave it, and to
    none where no version did: it was a refusal, or the safe template's.

    Raises NotFound where nobody knows the name.
    """
    try:
        answered = requests.get(connection, name)
    except NotFound:
        answered = None
    if answered is not None:
        if answered.model_version is None:
            return []
        name = answered.model_version
    return [_chain(connection, found) for found in trace(connection, name)]


def spoken(connection: Connection, request_id: str) -> dict[str, Any]:
    """What was asked and answered, and whether that is the beginning alone.

    Raises NotFound where no words of it are kept.
    """
    found = words.get(connection, request_id)
    if found is None:
        raise NotFound(
            f"no words of '{request_id[:80]}' are kept",
            hint="a project keeps them from then on that its file says deploy.log_prompts: true",
        )
    return {"asked": found.prompt, "answered": found.answer, "cut": found.cut}


def _chain(connection: Connection, found: Lineage) -> dict[str, Any]:
    version = found.version
    return {
        "version": version.hash,
        "state": version.state,
        "base": version.spec.base,
        "adapter": version.spec.adapter,
        "run": version.run_id,
        "dataset": version.dataset_hash,
        "lines": [
            {"record": at.record, "source": at.source, "line": at.line, "split": at.split}
            for at in found.lines
        ],
        "reports": [{"suite": r.suite, "hash": r.hash} for r in found.reports],
        "gates": [{"verdict": g.verdict, "hash": g.hash} for g in found.gates],
        "events": [
            {"deployment": e.deployment, "kind": e.kind, "why": e.why, "generation": e.generation}
            for e in found.events
        ],
        "answers": requests.answers_of(connection, version.hash),
    }
