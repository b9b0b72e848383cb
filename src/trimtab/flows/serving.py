"""From what is registered to what an engine loads."""

import json
from pathlib import Path

from trimtab.deploy.package import Package, files_of, materialise
from trimtab.errors import IdentityError
from trimtab.gateway.tiers import policies
from trimtab.inference import VersionFiles
from trimtab.project import Project
from trimtab.registry import bases, deployments, versions
from trimtab.registry.bases import Base
from trimtab.registry.methods import method_of
from trimtab.registry.versions import ModelVersion
from trimtab.store.database import Connection, Database
from trimtab.store.home import Home
from trimtab.text.chat import ChatFormat


def package_of(home: Home, version: ModelVersion) -> Package:
    """The package of a version, laid out in the home, every file checked. Raises IdentityError for
    a version without one.
    """
    if version.package_artifact is None:
        raise IdentityError(f"version {version.hash} has no package", hint="register it again")
    return materialise(home.blobs, version.package_artifact, home.versions)


def method_of_package(package: Package) -> str:
    """The method that a version needs its engine to serve; "full" for a base alone."""
    if package.spec.adapter is None:
        return "full"
    return method_of(json.loads((package.adapter / "adapter_config.json").read_bytes()))


def version_files(home: Home, version: ModelVersion, base: Path) -> VersionFiles:
    """`base` is the folder of the version's base. A base that only the built-in engine has computed
    has no package.
    """
    bare = version.spec.adapter is None and version.package_artifact is None
    package = None if bare else package_of(home, version)
    return files_of(version.spec, base, package)


def chat_of(version: ModelVersion, base: Path) -> ChatFormat:
    """How a version is spoken to: its own template and system message, not a project's newest."""
    template = version.spec.template
    return ChatFormat.from_folder(base, template["system"], source=template["chat_template"])


def served_bases(connection: Connection) -> list[Base]:
    """The bases that the deployments of a home answer with: one engine process each."""
    live = [versions.get(connection, each.live) for each in deployments.list(connection)]
    return [bases.get(connection, content) for content in sorted({v.spec.base for v in live})]


def declare_policy(database: Database, project: Project) -> None:
    """Tell the gateways what a project's file says about its deployment's answers."""
    with database.transaction() as connection:
        policies.declare(connection, project)
