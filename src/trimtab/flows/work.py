"""What a loop works with: the project, its home, the base, an engine, and whoever watches."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import cached_property
from importlib import metadata
from typing import Any, TypeVar

from trimtab.data.dataset import Dataset
from trimtab.flows import bases
from trimtab.flows.engines import RunEngine
from trimtab.flows.watch import Watch
from trimtab.inference import Engine
from trimtab.project import Project
from trimtab.registry import datasets
from trimtab.registry.bases import Base
from trimtab.store.database import Connection, Database
from trimtab.store.home import Home
from trimtab.text.chat import ChatFormat

Outputs = Mapping[str, Mapping[str, Any]]
Answer = TypeVar("Answer")


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


@dataclass
class Work:
    """The parts are opened when a step first asks for them."""

    project: Project
    home: Home
    database: Database
    watch: Watch
    stack: ExitStack = field(default_factory=ExitStack)

    @cached_property
    def base(self) -> Base:
        return bases.resolve(self.project.base, self.project.root, self.watch)

    @cached_property
    def chat(self) -> ChatFormat:
        """The format of every version of this project."""
        return ChatFormat.from_folder(self.base.folder, system=self.project.data.system)

    def dataset(self, outputs: Outputs) -> Dataset:
        """The dataset that the data step made, read back from the blob store."""
        with self.database.read() as connection:
            entry = datasets.get(connection, outputs["data"]["dataset"])
        return Dataset.from_manifest(self.home.blobs.read_bytes(entry.manifest))

    @property
    def engine_release(self) -> dict[str, str]:
        """What a new release of may change an answer: reports hold for one of each."""
        return {name: metadata.version(name) for name in ("torch", "transformers", "peft")}

    def ask(self, question: Callable[[Engine], Awaitable[Answer]]) -> Answer:
        """Put a question to the engine of this base: the one that serves, else one of our own."""
        return asyncio.run(self._engine.ask(question))

    @cached_property
    def _engine(self) -> RunEngine:
        return self.stack.enter_context(RunEngine(self.home, self.base, self.watch))
