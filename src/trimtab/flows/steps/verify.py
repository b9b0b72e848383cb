"""verify: the candidate proves, through the serving engine, that it is what was trained."""

import asyncio
from dataclasses import asdict, replace
from functools import partial
from typing import Any

from trimtab.canonical import short
from trimtab.deploy.package import package as pack
from trimtab.deploy.probes import Probes
from trimtab.deploy.promote import mark_verified
from trimtab.deploy.verify import Verification, said_of, verify
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
    said, base_files = None, base.files
    with work.reference(base_files.version, able) as reference:
        if reference is not None:
            # The engine that serves holds the base by its name: it must be asked whether it is it.
            said = asyncio.run(said_of(package, base_files, reference))
            base_files = replace(base_files, proof=said.proof())
        found = asyncio.run(
            verify(version.engine, package, version.files, base_files, base.engine, reference)
        )
    if not found.ok:
        raise IdentityError(
            f"version {short(candidate.hash)} stays unverified: {found.reason}",
            hint="train again; if it fails again, report it with this line",
        )
    line = (
        f"{found.tokens} probe tokens within {found.probe_difference:.1e} nat (allowed "
        f"{found.tolerance:.1e}); {found.base_difference:.1f} nat from the base"
    )
    packaged = None if said is None else _packaged(work, base_files.version, said)
    write = partial(_write, candidate.hash, found, base_files.version, packaged)
    return Result(found.to_json(), line, write)


def _packaged(work: Work, base: str, said: Probes) -> str:
    with work.database.read() as connection:
        spec = versions.get(connection, base).spec
    return pack(work.home.blobs, spec, None, said)


def _write(
    candidate: str, found: Verification, base: str, packaged: str | None, connection: Connection
) -> None:
    mark_verified(connection, candidate, found)
    if packaged is not None:
        versions.set_package(connection, base, packaged)
