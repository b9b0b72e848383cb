"""Identity by content: the same mathematics has the same hash wherever and however it is stored.

Tensors count by name, type, shape and bytes; of the configs only the fields that change a result
count. File order, sharding, metadata, paths and library versions do not.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypedDict

from trimtab.canonical import content_hash
from trimtab.errors import BaseError
from trimtab.registry.fields import adapter_fields, base_fields
from trimtab.registry.tensors import Tensor, opened
from trimtab.registry.weights import read_json, weight_files


class Template(TypedDict):
    """How messages become text: the Jinja source, and the system message where there is none."""

    chat_template: str
    system: str


class Defaults(TypedDict):
    """What a request that says nothing gets."""

    max_tokens: int
    stop_tokens: list[int]


@dataclass(frozen=True, slots=True)
class VersionSpec:
    """All that decides what a model version answers; `base`, `adapter`, `tokenizer` are hashes."""

    base: str
    adapter: str | None
    tokenizer: str
    template: Template
    defaults: Defaults

    @property
    def hash(self) -> str:
        """The version's identity (DESIGN: identity)."""
        return version_hash(self)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> "VersionSpec":
        return cls(**value)


def version_hash(spec: VersionSpec) -> str:
    return content_hash(asdict(spec))


def tensor_hash(place: Path) -> str:
    """The hash of all tensors of a folder or of a file. Raises BaseError."""
    found: dict[str, list[Any]] = {}
    for path, promised in weight_files(place).items():
        with opened(path) as (tensors, data):
            names = {tensor.name for tensor in tensors}
            if promised is not None and names != promised:
                raise BaseError(
                    f"{path}: its tensors are not those that the index names",
                    hint="fetch the model again, whole",
                )
            found |= {tensor.name: _row(tensor, data) for tensor in tensors}
    return content_hash([found[name] for name in sorted(found)])


def parameter_count(place: Path) -> int:
    """How many numbers the tensors of a folder or of a file hold. Raises BaseError."""
    total = 0
    for path in weight_files(place):
        with opened(path) as (tensors, _):
            total += sum(tensor.size for tensor in tensors)
    return total


def base_hash(folder: Path) -> str:
    """The hash of a base: its tensors and the mathematical fields of `config.json`."""
    fields = base_fields(read_json(folder / "config.json"))
    return content_hash({"tensors": tensor_hash(folder), "config": fields})


def adapter_hash(folder: Path, base: str) -> str:
    """The hash of an adapter on the base with the hash `base`: on another it is another adapter."""
    fields = adapter_fields(read_json(folder / "adapter_config.json"))
    return content_hash({"tensors": tensor_hash(folder), "config": fields, "base": base})


def tokenizer_hash(folder: Path) -> str:
    """The hash of `tokenizer.json`, whatever its spacing."""
    return content_hash(read_json(folder / "tokenizer.json"))


def _row(tensor: Tensor, data: memoryview) -> list[Any]:
    with data[tensor.start : tensor.end] as content:
        digest = hashlib.sha256(content).hexdigest()
    return [tensor.name, tensor.dtype, list(tensor.shape), digest]
