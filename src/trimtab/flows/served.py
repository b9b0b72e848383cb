"""The engines behind the gateways: every version loaded when it is first asked for, and proved.

An engine process that was restarted holds nothing; the first request to it loads its version again.
After every load a few golden probes run, so that a version never answers as something else.
"""

import asyncio
from collections import defaultdict
from collections.abc import AsyncGenerator
from contextlib import aclosing
from pathlib import Path

from trimtab.deploy.verify import check_loaded
from trimtab.engine.remote import RemoteEngine
from trimtab.errors import VersionNotLoaded
from trimtab.flows.serving import package_of, version_files
from trimtab.flows.sockets import engine_socket
from trimtab.inference import (
    Capabilities,
    Chunk,
    Engine,
    GenerateRequest,
    Score,
    ScoreRequest,
    VersionFiles,
)
from trimtab.registry import bases
from trimtab.registry.versions import ModelVersion
from trimtab.store.database import Database
from trimtab.store.home import Home


class Engines:
    """The engines of a home, one a base, and what each has been seen to hold."""

    def __init__(self, home: Home, database: Database) -> None:
        self._home = home
        self._database = database
        self._remote: dict[str, RemoteEngine] = {}
        self._held: set[str] = set()
        self._loading: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)

    async def ready(self, version: ModelVersion) -> Engine:
        """An engine that holds a version. Raises what loading raises, and IdentityError."""
        served = Served(self, version)
        if version.hash not in self._held:
            await self.load(version)
        return served

    def of(self, version: ModelVersion) -> RemoteEngine:
        base = version.spec.base
        if base not in self._remote:
            self._remote[base] = RemoteEngine(engine_socket(self._home, base))
        return self._remote[base]

    async def load(self, version: ModelVersion) -> None:
        """Load a version and let it prove itself; several callers load it once."""
        engine = self.of(version)
        async with self._loading[version.hash]:
            files = await asyncio.to_thread(self._files, version)
            await engine.load(files)
            if version.spec.adapter is not None:
                package = await asyncio.to_thread(package_of, self._home, version)
                await check_loaded(engine, package)
            self._held.add(version.hash)

    def forget(self, version: ModelVersion) -> None:
        self._held.discard(version.hash)

    def _files(self, version: ModelVersion) -> VersionFiles:
        return version_files(self._home, version, self._folder(version))

    def _folder(self, version: ModelVersion) -> Path:
        with self._database.read() as connection:
            return bases.get(connection, version.spec.base).folder


class Served:
    """An engine for one version, which loads it again where the engine has lost it."""

    def __init__(self, engines: Engines, version: ModelVersion) -> None:
        self._engines = engines
        self._version = version

    async def generate(self, request: GenerateRequest) -> AsyncGenerator[Chunk, None]:
        try:
            async with aclosing(self._engine.generate(request)) as chunks:
                async for chunk in chunks:
                    yield chunk
        except VersionNotLoaded:
            # An engine says so before it computes anything: no chunk was given out yet.
            await self._load_again()
            async with aclosing(self._engine.generate(request)) as chunks:
                async for chunk in chunks:
                    yield chunk

    async def score(self, request: ScoreRequest) -> list[Score]:
        try:
            return await self._engine.score(request)
        except VersionNotLoaded:
            await self._load_again()
            return await self._engine.score(request)

    async def capabilities(self) -> Capabilities:
        return await self._engine.capabilities()

    async def load(self, files: VersionFiles) -> None:
        await self._engine.load(files)

    async def unload(self, version: str) -> None:
        self._engines.forget(self._version)
        await self._engine.unload(version)

    @property
    def _engine(self) -> RemoteEngine:
        return self._engines.of(self._version)

    async def _load_again(self) -> None:
        self._engines.forget(self._version)
        await self._engines.load(self._version)
