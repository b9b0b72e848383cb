"""From the name in a request to the version that answers and the way it speaks.

Deployments are re-read when what is known is older than 250 ms, and before a version is used for
the first time; a version never changes, so it is read once.
"""

import asyncio
import logging
import re
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from typing import Literal

from trimtab.canonical import short
from trimtab.errors import (
    BaseError,
    DataError,
    EngineUnavailable,
    IdentityError,
    NotFound,
)
from trimtab.gateway.off_loop import OffLoop
from trimtab.gateway.problems import Problem
from trimtab.gateway.shared import Shared
from trimtab.gateway.tiers import policies
from trimtab.gateway.tiers.policies import Policy
from trimtab.inference import Capabilities, Engine
from trimtab.registry import bases, deployments, identity, versions
from trimtab.registry.deployments import Deployment
from trimtab.registry.versions import ModelVersion
from trimtab.store.database import Connection
from trimtab.text.chat import ChatFormat

FRESH_S = 0.25
ABLE_S = 1.0
# An engine that has not loaded a version by then has lost the question.
LOAD_S = 600.0
_HASH = re.compile(r"[0-9a-f]{8,64}")

log = logging.getLogger(__name__)

Ready = Callable[[ModelVersion], Awaitable[Engine]]


@dataclass(frozen=True, slots=True)
class Served:
    """A version that may answer. `deployment` is the name it was asked by, if it was by a name.

    `hash` is the version's, kept because computing it for each request would cost more than all
    else that the gateway computes.
    """

    version: ModelVersion
    hash: str
    chat: ChatFormat
    deployment: str | None = None

    @property
    def project(self) -> str:
        return self.version.project

    @property
    def tier(self) -> Literal["adapter", "base"]:
        return "adapter" if self.version.trained else "base"


@dataclass(frozen=True, slots=True)
class Resolved:
    """Who may answer, best first, and what the deployment's policy says beside that: `logged` where
    words are to be kept."""

    tiers: tuple[Served, ...]
    template: str | None = None
    deadline_s: float | None = None
    logged: bool = False

    @property
    def best_alone(self) -> "Resolved":
        """Without anybody to fall back to."""
        return Resolved(self.tiers[:1], None, self.deadline_s, self.logged)


class Catalogue:
    """Knows what is deployed. `ready` hands over an engine that holds a version; what is wrong with
    the version's files it raises as an error of the engine, for it is no caller's.
    """

    def __init__(self, database: OffLoop, ready: Ready) -> None:
        self._database = database
        self._ready = ready
        self._deployments: dict[str, Deployment] = {}
        self._read_at = float("-inf")
        self._policies: Mapping[str, Policy] = {}
        self._known: dict[str, Served] = {}
        # The base version below a version, found once: it is registered before.
        self._below: dict[str, str | None] = {}
        self._able: dict[str, tuple[float, Engine, Capabilities]] = {}
        self._loading: Shared[Engine] = Shared()
        self._looking: Shared[Resolved] = Shared()
        # Who answers for a name, worked out once for each time that the deployments are read.
        self._resolved: dict[str, Resolved] = {}

    async def resolve(self, model: str) -> Resolved:
        """Who answers for a deployment's name, or for a hash or its first characters.

        Only a name has tiers: a version hash gets that version. Raises NotFound, and Problem where
        the version was never verified.
        """
        if time.monotonic() - self._read_at < FRESH_S:
            # Of the reading that this begins with: a thread may put another in its place.
            resolved = self._resolved
            known = resolved.get(model) or self._at_hand(model)
            if known is not None:
                resolved[model] = known
                return known
        return await self._looking.do(
            model,
            lambda: self._database.read(lambda connection: self._look_up(connection, model)),
        )

    async def deployed(self) -> list[tuple[Deployment, Served | None]]:
        """Every deployment with its live version, as the database has them now; None for a version
        that may not answer, or whose files are not what was registered."""
        return await self._database.read(self._look_up_all)

    async def engine(self, served: Served) -> Engine:
        """An engine that holds the version. Whoever asks while it loads waits for the same load,
        and a caller that leaves does not end it."""
        return await self._loading.do(served.hash, lambda: self._load(served.version))

    async def able(self, served: Served) -> tuple[Engine, Capabilities]:
        """As `engine`, with what it can do; as it was a second ago at most."""
        now = time.monotonic()
        known = self._able.get(served.hash)
        if known is not None and now - known[0] < ABLE_S:
            return known[1], known[2]
        engine = await self.engine(served)
        capabilities = await engine.capabilities()
        self._able[served.hash] = (now, engine, capabilities)
        return engine, capabilities

    def forget(self, served: Served) -> None:
        """Ask an engine that failed anew what it can do."""
        self._able.pop(served.hash, None)

    async def _load(self, version: ModelVersion) -> Engine:
        try:
            async with asyncio.timeout(LOAD_S):
                return await self._ready(version)
        except TimeoutError:
            raise EngineUnavailable(
                f"version {short(version.hash)} was not loaded within {LOAD_S:.0f} s"
            ) from None

    def _at_hand(self, model: str) -> Resolved | None:
        """Without asking the database; None where it has to be asked."""
        deployment = self._deployments.get(model)
        if deployment is None:
            known = self._known.get(model)
            return None if known is None else Resolved((known,))
        return self._named(deployment)

    def _named(self, deployment: Deployment) -> Resolved | None:
        if deployment.live not in self._known or deployment.live not in self._below:
            return None
        below = self._below[deployment.live]
        found = [deployment.live] + ([] if below is None else [below])
        tiers = tuple(
            replace(self._known[content], deployment=deployment.name) for content in found
        )
        policy = self._policies.get(deployment.name)
        if policy is None:
            return Resolved(tiers)
        return Resolved(tiers, policy.safe_template, policy.deadline_s, policy.log_prompts)

    def _look_up(self, connection: Connection, model: str) -> Resolved:
        # What is read here is what this look-up goes by: another may read anew meanwhile.
        deployed = self._read_deployments(connection)
        deployment = deployed.get(model)
        if deployment is None and not _HASH.fullmatch(model):
            names = ", ".join(deployed)
            raise NotFound(
                f"model: no deployment '{model}'",
                hint=f"known here: {names}" if names else "nothing is deployed here yet",
            )
        if deployment is None:
            return Resolved((self._version(connection, model),))
        self._version(connection, deployment.live)
        self._look_below(connection, deployment.live)
        found = self._named(deployment)
        assert found is not None, "its version and the one below were just looked up"
        return found

    def _look_below(self, connection: Connection, content: str) -> None:
        """Find the base version that stands in for an adapter: the newest of the same project."""
        if content in self._below:
            return
        above = self._known[content].version
        self._below[content] = None
        if above.spec.adapter is None:
            return
        for version in reversed(versions.list(connection, above.project)):
            if not version.trained and version.spec.base == above.spec.base:
                self._version(connection, version.hash)
                self._below[content] = version.hash
                return

    def _look_up_all(self, connection: Connection) -> list[tuple[Deployment, Served | None]]:
        return [
            (deployment, self._sound(connection, deployment.live))
            for deployment in self._read_deployments(connection).values()
        ]

    def _sound(self, connection: Connection, content: str) -> Served | None:
        try:
            return self._version(connection, content)
        except (IdentityError, Problem) as error:
            log.warning("version %s cannot answer: %s", short(content), error)
            return None

    def _read_deployments(self, connection: Connection) -> Mapping[str, Deployment]:
        read_at = time.monotonic()
        found = {found.name: found for found in deployments.list(connection)}
        self._policies = policies.list(connection)
        self._deployments, self._resolved, self._read_at = found, {}, read_at
        return found

    def _version(self, connection: Connection, content: str) -> Served:
        if content not in self._known:
            version = versions.get(connection, content)
            if version.state == "unverified" and version.trained:
                detail = f"model: version {version.hash} was not verified yet"
                raise Problem(409, "not_verified", detail)
            # Under the whole hash alone: what the first characters mean may change.
            content = version.hash
            if content not in self._known:
                self._known[content] = Served(version, content, _chat(connection, version))
        return self._known[content]


def _chat(connection: Connection, version: ModelVersion) -> ChatFormat:
    """How the version speaks: its own template and system message, its base's tokenizer."""
    spec, template = version.spec, version.spec.template
    folder = bases.get(connection, spec.base).folder
    try:
        if identity.tokenizer_hash(folder) != spec.tokenizer:
            raise IdentityError(
                f"{folder}: its tokenizer is not the one of version {version.hash}",
                hint="somebody changed the base's files: fetch it again",
            )
        return ChatFormat.from_folder(
            folder, system=template["system"], source=template["chat_template"]
        )
    except (BaseError, DataError) as error:
        raise IdentityError(error.message, hint=error.hint) from error
