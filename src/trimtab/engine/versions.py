"""The versions of one base that are loaded, each with the path that computes it.

The fast path takes what it can; the general one, with all that is behind it, comes into memory with
the first version that needs it. Knows nothing of requests and threads, but that `prepare` may be
called from any.
"""

import threading
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

import torch

from trimtab.engine.continuous.path import ContinuousPath
from trimtab.engine.continuous.path import Version as FastVersion
from trimtab.engine.continuous.quantisation import int8_path
from trimtab.engine.general.static import StaticPath
from trimtab.engine.llama.family import read_shape
from trimtab.errors import EngineError, IdentityError, VersionNotLoaded
from trimtab.inference import VersionFiles

if TYPE_CHECKING:
    from trimtab.engine.general.path import GeneralPath, Version

    Ready = FastVersion | Version

Quantisation = Literal["none", "int8"]

AnyPath = ContinuousPath | StaticPath


class Held(NamedTuple):
    """`context` is what an adapter's virtual tokens leave of it."""

    files: VersionFiles
    path: AnyPath
    context: int


class Versions:
    """`fast` is None where the base is not of a family that the fast path computes."""

    def __init__(
        self, base: Path, dtype: torch.dtype, device: torch.device, quantisation: Quantisation
    ) -> None:
        """Raises EngineError where a quantisation is not fit for the machine or the base."""
        self._base = base
        self._dtype = dtype
        self._device = device
        shape = read_shape(base)
        if quantisation != "none" and shape is None:
            raise EngineError(
                f"{base}: int8 is for the Llama family", hint="serve without quantisation"
            )
        make = int8_path if quantisation == "int8" else ContinuousPath
        self.fast = None if shape is None else make(base, shape, dtype, device)
        self._general: StaticPath | None = None
        if shape is None:
            general = _general()(base, dtype, device)
            self.context, self.vocabulary = general.context, general.vocabulary
            self._general = StaticPath(general)
        else:
            assert self.fast is not None
            self.context, self.vocabulary = self.fast.context, shape.vocabulary
        self.held: dict[str, Held] = {}
        self._preparing = threading.Lock()

    @property
    def paths(self) -> list[AnyPath]:
        return [path for path in (self.fast, self._general) if path is not None]

    def of(self, version: str) -> Held:
        """Raises VersionNotLoaded."""
        if (held := self.held.get(version)) is None:
            raise VersionNotLoaded(
                f"version {version} is not loaded", hint="load it, then ask again"
            )
        return held

    def knows(self, files: VersionFiles) -> bool:
        """Whether a version is loaded. Raises IdentityError for other files of the same name, and
        for another base.
        """
        if (held := self.held.get(files.version)) is not None:
            if held.files != files:
                raise IdentityError(
                    f"version {files.version} is loaded from other files already",
                    hint="unload it first; a version's name is the hash of its content",
                )
            return True
        if files.base.resolve() != self._base.resolve():
            raise IdentityError(
                f"version {files.version} stands on {files.base}, this engine holds {self._base}",
                hint="each base has an engine of its own",
            )
        return False

    def prepare(self, files: VersionFiles) -> "Ready":
        """What takes seconds of a version and disturbs nobody; for the general path, with all that
        it needs, one at a time. Raises as the paths do.
        """
        if self.fast is not None and self.fast.takes(files):
            return self.fast.prepare(files)
        with self._preparing:
            if self._general is None:
                self._general = StaticPath(_general()(self._base, self._dtype, self._device))
            return self._general.prepare(files)

    def load(self, files: VersionFiles, ready: "Ready") -> None:
        """`ready` is what `prepare` made of it. Raises as the paths do."""
        if self.knows(files):
            return
        if isinstance(ready, FastVersion):
            assert self.fast is not None
            self.fast.hold(ready)
            held = Held(files, self.fast, self.context)
        else:
            assert self._general is not None
            self._general.hold(ready)
            virtual = self._general.virtual_tokens(files.version)
            held = Held(files, self._general, self.context - virtual)
        self.held[files.version] = held

    def unload(self, version: str) -> None:
        if (held := self.held.pop(version, None)) is not None:
            held.path.unload(version)


def _general() -> type["GeneralPath"]:
    """With transformers and PEFT behind it, which take longer to import than all else to start."""
    from trimtab.engine.general.path import GeneralPath

    return GeneralPath
