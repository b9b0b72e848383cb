"""What a loop works with: the project, its home, the base, an engine, and whoever watches."""

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import cached_property
from importlib import metadata
from typing import Any

from trimtab.data.dataset import Dataset
from trimtab.flows import bases
from trimtab.flows.engines import RunEngine
from trimtab.flows.serving import chat_of, version_files
from trimtab.flows.watch import Watch
from trimtab.inference import Engine, VersionFiles
from trimtab.project import Project
from trimtab.registry import bases as registered_bases
from trimtab.registry import datasets, versions
from trimtab.registry.bases import Base
from trimtab.store.database import Connection, Database
from trimtab.store.home import Home
from trimtab.text.chat import ChatFormat

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
    _engines: dict[str, RunEngine] = field(default_factory=dict)

    @cached_property
    def base(self) -> Base:
        return bases.resolve(self.project.base, self.project.root, self.watch)

    @cached_property
    def chat(self) -> ChatFormat:
        """The format of the versions that this project makes; an older one may have another."""
        return ChatFormat.from_folder(self.base.folder, system=self.project.data.system)

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
            own = RunEngine(self.home, base, self.watch)
            self._engines[base.hash] = self.stack.enter_context(own)
        return self._engines[base.hash].engine
