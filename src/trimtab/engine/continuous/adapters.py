"""The adapters of one base: many known, those used last in memory, the rest on disk.

An adapter that comes back from disk must be, byte for byte, the one that was checked when its
version was loaded.
"""

import hashlib
import threading
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from trimtab.engine.llama.family import Shape
from trimtab.engine.llama.lora import HINT, Adapter, Arrange, load_adapter
from trimtab.engine.llama.weights import Weights
from trimtab.errors import IdentityError

HOT = 64
"""Adapters in memory."""


@dataclass(frozen=True, slots=True)
class Known:
    folder: Path
    config: dict[str, Any]
    digest: bytes


class Read(NamedTuple):
    """An adapter as it came from its files."""

    known: Known
    adapter: Adapter


class Adapters:
    """By version; a version without an adapter is not here. All methods may be called from any
    thread.
    """

    def __init__(self, shape: Shape, weights: Weights, arrange: Arrange) -> None:
        self._shape = shape
        self._weights = weights
        self._arrange = arrange
        self._known: dict[str, Known] = {}
        self._hot: OrderedDict[str, Adapter] = OrderedDict()
        self._changing = threading.Lock()
        self._paging = threading.Lock()

    def read(self, folder: Path, config: dict[str, Any]) -> Read:
        """Raises IdentityError where the files are not an adapter of the base."""
        known = Known(folder, config, _digest(folder))
        return Read(known, self._load(known))

    def add(self, version: str, read: Read) -> None:
        with self._changing:
            self._known[version] = read.known
            self._keep(version, read.adapter)

    def get(self, version: str) -> Adapter | None:
        """None where the version has no adapter. Raises IdentityError where its file changed."""
        with self._changing:
            if (known := self._known.get(version)) is None:
                return None
            if (hot := self._hot.get(version)) is not None:
                self._hot.move_to_end(version)
                return hot
        if _digest(known.folder) != known.digest:
            raise IdentityError(
                f"version {version}: {known.folder} is not what was loaded under this name",
                hint="unload the version and load it again",
            )
        adapter = self._load(known)
        with self._changing:
            # Another may have come under this name meanwhile, or none.
            if self._known.get(version) is known:
                self._keep(version, adapter)
        return adapter

    def lacks(self, version: str) -> bool:
        """Whether a version has an adapter that is not in memory."""
        with self._changing:
            return version in self._known and version not in self._hot

    def page_in(self, version: str) -> None:
        """As `get`, one at a time, so that of several that miss the same one reads it for all."""
        with self._paging:
            if self.lacks(version):
                self.get(version)

    def remove(self, version: str) -> None:
        with self._changing:
            self._known.pop(version, None)
            self._hot.pop(version, None)

    def _load(self, known: Known) -> Adapter:
        return load_adapter(known.folder, known.config, self._shape, self._weights, self._arrange)

    def _keep(self, version: str, adapter: Adapter) -> None:
        self._hot[version] = adapter
        self._hot.move_to_end(version)
        while len(self._hot) > HOT:
            self._hot.popitem(last=False)


def _digest(folder: Path) -> bytes:
    try:
        with (folder / "adapter_model.safetensors").open("rb") as file:
            return hashlib.file_digest(file, "sha256").digest()
    except OSError as error:
        raise IdentityError(f"{folder}: {error.strerror}: {error.filename}", hint=HINT) from error
