"""The passage of a candidate: unverified, verified, shadow, live; then retired or rolled back.

`registry` knows which passages exist and changes a deployment by one compare-and-set with its event
row, in the caller's transaction; this module knows what each passage needs. What a caller must not
be surprised by (not better, not passed) is a result with its reason; what must not happen at all
(a gate against a version that is no longer live) is an error.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from trimtab.canonical import short
from trimtab.deploy.shadow import ShadowResult
from trimtab.deploy.verify import Verification
from trimtab.errors import InUse
from trimtab.evaluate.gate import Gate
from trimtab.registry import deployments, versions
from trimtab.registry.deployments import Deployment
from trimtab.store.database import Connection


@dataclass(frozen=True, slots=True)
class Promotion:
    """`promoted` says whether the candidate is live now, `changed` whether this call did it."""

    promoted: bool
    changed: bool
    why: str
    deployment: Deployment


def mark_verified(connection: Connection, version: str, verification: Verification) -> bool:
    """Let a version on to evaluation; where the verification failed it stays `unverified`."""
    state = versions.get(connection, version).state
    if verification.ok and state in ("unverified", "rolled back"):
        versions.set_state(connection, version, "verified")
    return verification.ok


def enter_shadow(connection: Connection, name: str, gate: Gate) -> Deployment | None:
    """Put a better candidate into the idle slot; None, and nothing changed, if it is not better.

    The deployment's `generation` in the answer is what `promote` expects. A candidate that is live
    already stays so.
    """
    now = deployments.get(connection, name)
    if gate.verdict != "better":
        return None
    if now.live == gate.candidate:
        return now
    _check_incumbent(now, gate)
    return deployments.candidate(connection, name, gate.candidate, now.generation)


def promote(
    connection: Connection, name: str, expected_generation: int, gate: Gate, shadow: ShadowResult
) -> Promotion:
    """Make a candidate live; the version before it stays loaded in the other slot.

    Only 'better' is promoted, and only after a passed shadow. A candidate that is live already is
    left so. Raises InUse where the deployment changed since `expected_generation`, or where the
    gate compared with a version that is not the live one.
    """
    now = deployments.get(connection, name)
    if now.live == gate.candidate:
        return Promotion(True, False, f"{short(gate.candidate)} is live already", now)
    if gate.verdict != "better":
        return Promotion(False, False, gate.reason, now)
    if not shadow.passed:
        return Promotion(False, False, f"shadow: {shadow.reason}", now)
    _check_incumbent(now, gate)
    evidence = {"gate": gate.hash, "findings": gate.findings.to_json(), "shadow": shadow.to_json()}
    changed = deployments.promote(
        connection, name, gate.candidate, expected_generation, gate.reason, evidence
    )
    return Promotion(True, True, gate.reason, changed)


def rollback(
    connection: Connection,
    name: str,
    version: str,
    why: str,
    evidence: Mapping[str, Any] | None = None,
) -> Deployment:
    """Take `version` out of the live slot; the version before it is live again.

    Where `version` is not live any more nothing changes, so that two alarms, or one rerun, roll
    back once. Raises NotFound where no older version stands.
    """
    now = deployments.get(connection, name)
    if now.live != version:
        return now
    return deployments.rollback(connection, name, now.generation, why, evidence or {})


def _check_incumbent(now: Deployment, gate: Gate) -> None:
    if gate.incumbent != now.live:
        raise InUse(
            f"deployment '{now.name}': the gate compared with {short(gate.incumbent)}, but"
            f" {short(now.live)} is live",
            hint="evaluate the candidate against what is live now: trimtab run",
        )
