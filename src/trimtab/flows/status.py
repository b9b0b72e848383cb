"""What is live and why: each deployment of a home, as plain JSON."""

import math
from dataclasses import replace
from typing import Any

from trimtab.journal.requests import cost_of
from trimtab.ledger.money import usd
from trimtab.ledger.own import spent
from trimtab.monitor.latency import slo_report
from trimtab.project import Project, Slo
from trimtab.registry import deployments, reports, versions
from trimtab.registry.deployments import Deployment
from trimtab.registry.versions import ModelVersion
from trimtab.stats.interval import Interval
from trimtab.store.clock import show
from trimtab.store.database import Connection, Database


def status(database: Database, project: Project | None = None) -> dict[str, Any]:
    """Every deployment with what is live, since when and why, and how it serves.

    The SLO comes from the project; a deployment of another project is held to the defaults.
    """
    with database.read() as connection:
        found = [_deployment(connection, each, project) for each in deployments.list(connection)]
    return {"deployments": found}


def _deployment(
    connection: Connection, deployment: Deployment, project: Project | None
) -> dict[str, Any]:
    mine = project is not None and project.deployment == deployment.name
    slo = project.deploy.slo if project and mine else Slo()
    event = deployments.made_live(connection, deployment.name)
    live = versions.get(connection, deployment.live)
    seen = slo_report(connection, slo, deployment=deployment.name, version=live.hash)
    return {
        "name": deployment.name,
        "project": deployment.project,
        "generation": deployment.generation,
        "live": {
            "model_version": live.hash,
            "since": show(event.at_us),
            "why": event.why,
            **_exact_match(connection, live),
        },
        "idle": deployment.idle,
        "spent_usd": _spent(connection, deployment),
        "slo": {
            "target": slo.model_dump(),
            "requests": seen.unavailable.of,
            "p50_ms": seen.p50_ms,
            "p95_ms": seen.p95_ms,
            "p95_interval_ms": _ends(seen.p95_interval),
            "available": None if (bad := seen.unavailable.value) is None else 1 - bad,
            "latency": seen.slow.verdict,
            "availability": seen.unavailable.verdict,
        },
    }


def _spent(connection: Connection, deployment: Deployment) -> dict[str, float]:
    """What was paid so far: the loop's own work by kind, and the answers of the deployment."""
    found = {**spent(connection, deployment.project)}
    found["answers"] = cost_of(connection, deployment.name)
    return {kind: usd(amount) for kind, amount in found.items()}


def _ends(interval: Interval | None) -> list[float | None]:
    """Lower and upper end; None where there is no bound."""
    ends = (interval.low, interval.high) if interval else (math.inf, math.inf)
    return [end if math.isfinite(end) else None for end in ends]


def _exact_match(connection: Connection, live: ModelVersion) -> dict[str, float | None]:
    """From the newest report of the live version, and its base's on the same items.

    The base under the same tokenizer, template and defaults is a version of its own.
    """
    base = replace(live.spec, adapter=None)
    newest = next(iter(reports.of_version(connection, live.hash, "holdout")), None)
    if newest is None:
        return {"exact_match": None, "base_exact_match": None}
    peers = reports.of_version(connection, base.hash, "holdout")
    settings = newest.summary["settings"]
    peer = next((one for one in peers if one.summary["settings"] == settings), None)
    return {
        "exact_match": float(newest.summary["exact_match"]),
        "base_exact_match": None if peer is None else float(peer.summary["exact_match"]),
    }
