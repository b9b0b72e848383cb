"""The adapters of one base: many known, those used last in memory, the rest on disk.

An adapter that comes back from disk must be, byte for byte, the one that was checked when its
version was loaded.
"""

import hashlib
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trimtab.engine.family import Shape
from trimtab.engine.lora import HINT, Adapter, Arrange, load_adapter
from trimtab.engine.weights import Weights
from trimtab.errors import IdentityError

HOT = 64
"""Adapters in memory."""


@dataclass(frozen=True, slots=True)
class Known:
    folder: Path
    config: dict[str, Any]
    digest: bytes


class Adapters:
    """By version; a version without an adapter is not here."""

    def __init__(self, shape: Shape, weights: Weights, arrange: Arrange) -> None:
        self._shape = shape
        self._weights = weights
        self._arrange = arrange
        self._known: dict[str, Known] = {}
        self._hot: OrderedDict[str, Adapter] = OrderedDict()

    def add(self, version: str, folder: Path, config: dict[str, Any]) -> None:
        """Raises IdentityError where the files are not an adapter of the base."""
        digest = _digest(folder)
        self._keep(version, self._load(folder, config))
        self._known[version] = Known(folder, config, digest)

    def get(self, version: str) -> Adapter | None:
        """None where the version has no adapter. Raises IdentityError where its file changed."""
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
        adapter = self._load(known.folder, known.config)
        self._keep(version, adapter)
        return adapter

    def remove(self, version: str) -> None:
        self._known.pop(version, None)
        self._hot.pop(version, None)

    def _load(self, folder: Path, config: dict[str, Any]) -> Adapter:
        return load_adapter(folder, config, self._shape, self._weights, self._arrange)

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
