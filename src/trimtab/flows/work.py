"""What a loop works with: the project, its home, the base, an engine, and whoever watches."""

import asyncio
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from functools import cached_property
from importlib import metadata
from typing import Any

from trimtab.data.dataset import Dataset
from trimtab.errors import EngineError
from trimtab.flows import bases
from trimtab.flows.backends import BUILT_IN, Backend, backend_of, declared
from trimtab.flows.engines import RunEngine
from trimtab.flows.metered import Meter, Metered
from trimtab.flows.serving import chat_of, version_files
from trimtab.flows.watch import Watch
from trimtab.inference import Capabilities, Engine, VersionFiles
from trimtab.project import Project
from trimtab.registry import bases as registered_bases
from trimtab.registry import datasets, deployments, versions
from trimtab.registry.bases import Base
from trimtab.store.database import Connection, Database
from trimtab.store.home import Home
from trimtab.text.chat import ChatFormat
from trimtab.text.template import source_of

Outputs = Mapping[str, Mapping[str, Any]]


def nothing_to_write(connection: Connection) -> None:
    """For steps whose output alone is their result."""


@dataclass(frozen=True)
class Result:
    """What a step made: its output for the journal, a line for people, and the rows it writes.

    `write` runs in the transaction that marks the step done.
    """

    output: dict[str, Any]
    line: str
    write: Callable[[Connection], None] = nothing_to_write


@dataclass(frozen=True)
class Contestant:
    """A version that is measured; its base need not be the project's."""

    files: VersionFiles
    chat: ChatFormat
    engine: Engine


@dataclass
class Work:
    """The parts are opened when a step first asks for them."""

    project: Project
    home: Home
    database: Database
    watch: Watch
    stack: ExitStack = field(default_factory=ExitStack)
    meter: Meter = field(default_factory=Meter)
    _engines: dict[str, RunEngine] = field(default_factory=dict)

    @cached_property
    def base(self) -> Base:
        return bases.resolve(self.project.base, self.project.root, self.watch)

    @property
    def backend(self) -> Backend:
        """What computes for the versions that this project makes."""
        return backend_of(self.project)

    @cached_property
    def chat(self) -> ChatFormat:
        """The format of the versions that this project makes; an older one may have another."""
        data = self.project.data
        source = None if data.template is None else source_of(data.template, self.project.root)
        return ChatFormat.from_folder(self.base.folder, data.system, source=source)

    def dataset(self, outputs: Outputs) -> Dataset:
        """The dataset that the data step made, read back from the blob store."""
        with self.database.read() as connection:
            entry = datasets.get(connection, outputs["data"]["dataset"])
        return Dataset.from_manifest(self.home.blobs.read_bytes(entry.manifest))

    @property
    def engine_release(self) -> dict[str, str]:
        """Libraries that may change an answer with a release: reports hold for one of each."""
        return {name: metadata.version(name) for name in ("torch", "transformers", "peft")}

    def contestant(self, content: str) -> Contestant:
        """A registered version as it is asked: with its own base, template and engine."""
        base = self.base
        with self.database.read() as connection:
            version = versions.get(connection, content)
            if version.spec.base != base.hash:
                base = registered_bases.get(connection, version.spec.base)
        files = version_files(self.home, version, base.folder)
        return Contestant(files, chat_of(version, base.folder), self.engine(base))

    def engine(self, base: Base) -> Engine:
        """The engine of a base: the one that serves, else one that ends with the loop."""
        if base.hash not in self._engines:
            # What stood on another base before is asked where it answers now.
            ours = self.base.hash in (base.hash, base.source.get("base"))
            held = self._held(base, self.backend if ours else None)
            self._engines[base.hash] = self.stack.enter_context(held)
        return Metered(self._engines[base.hash].engine, self.meter)

    def _held(self, base: Base, backend: Backend | None) -> RunEngine:
        """`None`: by what `serve` computes the base with."""
        with self.database.read() as connection:
            serving = declared(connection, base.hash)
        wanted = serving if backend is None else backend
        return RunEngine(self.home, base, self.watch, wanted, shared=wanted == serving)

    @contextmanager
    def reference(self, content: str, able: Capabilities) -> Iterator[Engine | None]:
        """The built-in engine of a version's base, where the one that serves merges nothing."""
        if able.merged:
            yield None
            return
        with self.database.read() as connection:
            base = registered_bases.get(connection, versions.get(connection, content).spec.base)
        with self._held(base, BUILT_IN) as own:
            yield own.engine

    def release(self, content: str) -> None:
        """Let the engine forget a version that was refused: it may be the one that serves, or
        somebody's server.
        """
        with self.database.read() as connection:
            version = versions.get(connection, content)
            named = deployments.list(connection)
        if any(content == each.live for each in named):
            return
        if (own := self._engines.get(version.spec.base)) is not None:
            with suppress(EngineError):
                asyncio.run(own.engine.unload(content))
