"""The engines behind the gateways: every version loaded when it is first asked for, and proved.

An engine process that was restarted holds nothing; the first request to it loads its version again.
At every load the engine has a few golden probes repeated before it answers anybody, so that a
version never answers as something else. That may take longer than a request has: no request that
leaves ends a load, and the next one finds it done.
"""

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator
from contextlib import aclosing
from pathlib import Path

from trimtab.canonical import short
from trimtab.engine.wire.remote import RemoteEngine
from trimtab.errors import EngineUnavailable, UserError, VersionNotLoaded
from trimtab.flows.serving import version_files
from trimtab.flows.sockets import engine_socket
from trimtab.flows.standing import Standing
from trimtab.gateway.catalogue import LOAD_S
from trimtab.gateway.shared import Shared
from trimtab.inference import (
    Chunk,
    Engine,
    GenerateRequest,
    Score,
    ScoreRequest,
    VersionFiles,
)
from trimtab.registry import bases
from trimtab.registry.encoders import Encoder
from trimtab.registry.versions import ModelVersion
from trimtab.store.database import Database
from trimtab.store.home import Home


class Engines:
    """The engines of a home, one a base or an encoder, and what each has been seen to hold."""

    def __init__(self, home: Home, database: Database) -> None:
        self._home = home
        self._database = database
        self._remote: dict[str, RemoteEngine] = {}
        self._loads: Counter[str] = Counter()
        self._loading: Shared[None] = Shared()

    async def ready(self, version: ModelVersion) -> Engine:
        """An engine that holds a version. Raises what loading raises, and IdentityError."""
        if not self.loads(version):
            await self.load(version, 0)
        return Served(self, version, self.loads(version))

    def encoding(self, encoder: Encoder) -> Engine:
        """The engine of an encoder. It checks for itself that it holds what is asked for."""
        if encoder.hash not in self._remote:
            self._remote[encoder.hash] = RemoteEngine(engine_socket(self._home, encoder.hash))
        return self._remote[encoder.hash]

    def loads(self, version: ModelVersion) -> int:
        """How often a version was loaded by this process."""
        return self._loads[version.hash]

    def of(self, version: ModelVersion) -> RemoteEngine:
        base = version.spec.base
        if base not in self._remote:
            self._remote[base] = RemoteEngine(engine_socket(self._home, base))
        return self._remote[base]

    async def load(self, version: ModelVersion, seen: int) -> None:
        """Load a version, which then proves itself, unless that was done since `seen` loads.

        So of several callers that miss a version at once, one loads it for all; and it goes on when
        they leave.
        """
        if self.loads(version) == seen:
            await self._loading.do(version.hash, lambda: self._load(version))

    async def _load(self, version: ModelVersion) -> None:
        """Raises EngineUnavailable where the engine does not answer in time: it lost the call; and
        where a file is missing. On a command line that is the user's to mend, and never a caller's
        here, be it at the first load or at one in the middle of a request.
        """
        try:
            async with asyncio.timeout(LOAD_S):
                await self.of(version).load(await asyncio.to_thread(self._files, version))
        except TimeoutError:
            raise EngineUnavailable(
                f"version {short(version.hash)} was not loaded within {LOAD_S:.0f} s",
                hint="is its engine busy with something else? try again in a moment",
            ) from None
        except UserError as error:
            raise EngineUnavailable(
                f"version {short(version.hash)}: {error.message}", hint=error.hint
            ) from error
        self._loads[version.hash] += 1

    def _files(self, version: ModelVersion) -> VersionFiles:
        return version_files(self._home, version, self._folder(version))

    def _folder(self, version: ModelVersion) -> Path:
        with self._database.read() as connection:
            return bases.get(connection, version.spec.base).folder


class Served(Standing):
    """An engine for one request to one version, loaded again where the engine has lost it."""

    def __init__(self, engines: Engines, version: ModelVersion, loads: int) -> None:
        self._engines = engines
        self._version = version
        self._loads = loads

    async def generate(self, request: GenerateRequest) -> AsyncGenerator[Chunk, None]:
        try:
            async with aclosing(self.behind.generate(request)) as chunks:
                async for chunk in chunks:
                    yield chunk
        except VersionNotLoaded:
            # An engine says so before it computes anything: no chunk was given out yet.
            await self._engines.load(self._version, self._loads)
            async with aclosing(self.behind.generate(request)) as chunks:
                async for chunk in chunks:
                    yield chunk

    async def score(self, request: ScoreRequest) -> list[Score]:
        try:
            return await self.behind.score(request)
        except VersionNotLoaded:
            await self._engines.load(self._version, self._loads)
            return await self.behind.score(request)

    @property
    def behind(self) -> RemoteEngine:
        return self._engines.of(self._version)
