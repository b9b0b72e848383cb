"""verify: the candidate proves, through the serving engine, that it is what was trained."""

import asyncio
from dataclasses import asdict
from functools import partial
from typing import Any

from trimtab.canonical import short
from trimtab.deploy.promote import mark_verified
from trimtab.deploy.verify import Verification, verify
from trimtab.errors import IdentityError
from trimtab.flows.backends import check_served
from trimtab.flows.serving import method_of_package, package_of
from trimtab.flows.work import Outputs, Result, Work
from trimtab.registry import versions
from trimtab.store.database import Connection


def inputs(work: Work, outputs: Outputs) -> dict[str, Any]:
    return {
        "version": outputs["register"]["version"],
        "engine": work.engine_release,
        "backend": asdict(work.backend),
    }


def work(work: Work, outputs: Outputs) -> Result:
    """Raises IdentityError where the version is not what was trained: it stays unverified."""
    registered = outputs["register"]
    with work.database.read() as connection:
        candidate = versions.get(connection, registered["version"])
    package = package_of(work.home, candidate)
    version = work.contestant(registered["version"])
    base = work.contestant(registered["base_version"])
    able = asyncio.run(version.engine.capabilities())
    check_served(able, method_of_package(package), short(candidate.hash))
    with work.reference(candidate.hash, able) as reference:
        found = asyncio.run(
            verify(version.engine, package, version.files, base.files, base.engine, reference)
        )
    if not found.ok:
        work.release(candidate.hash)
        raise IdentityError(
            f"version {short(candidate.hash)} stays unverified: {found.reason}",
            hint="train again; if it fails again, report it with this line",
        )
    line = (
        f"{found.tokens} probe tokens within {found.probe_difference:.1e} nat (allowed "
        f"{found.tolerance:.1e}); {found.base_difference:.1f} nat from the base"
    )
    return Result(found.to_json(), line, partial(_write, candidate.hash, found))


def _write(version: str, found: Verification, connection: Connection) -> None:
    mark_verified(connection, version, found)
