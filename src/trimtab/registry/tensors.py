"""Reading safetensors files without torch: a checked header and views of the bytes.

Format: https://github.com/huggingface/safetensors#format - eight bytes of header length, a JSON
header, then the tensors' bytes without a gap. A file that breaks a rule is a BaseError, because
the files read here came from outside: a base model, or an adapter that somebody trained.
"""

import json
import math
import mmap
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trimtab.errors import BaseError

_LENGTH = 8
_LONGEST_HEADER = 100_000_000
_BITS = {
    "BOOL": 8,
    "F4": 4,
    "F6_E2M3": 6,
    "F6_E3M2": 6,
    "U8": 8,
    "I8": 8,
    "F8_E5M2": 8,
    "F8_E4M3": 8,
    "F8_E4M3FNUZ": 8,
    "F8_E5M2FNUZ": 8,
    "F8_E8M0": 8,
    "I16": 16,
    "U16": 16,
    "F16": 16,
    "BF16": 16,
    "I32": 32,
    "U32": 32,
    "F32": 32,
    "I64": 64,
    "U64": 64,
    "F64": 64,
    "C64": 64,
}


@dataclass(frozen=True, slots=True)
class Tensor:
    """Where a tensor's bytes lie in its file: `data[start:end]`."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    start: int
    end: int

    @property
    def size(self) -> int:
        """How many numbers it holds."""
        return math.prod(self.shape)


@contextmanager
def opened(path: Path) -> Iterator[tuple[list[Tensor], memoryview]]:
    """The tensors of a file and its mapped bytes. Raises BaseError where the file is malformed."""
    size = path.stat().st_size
    if size < _LENGTH:
        raise _malformed(path, "too short for a header")
    with (
        path.open("rb") as file,
        mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped,
        memoryview(mapped) as data,
    ):
        yield _tensors(path, data), data


def _tensors(path: Path, data: memoryview) -> list[Tensor]:
    length = int.from_bytes(data[:_LENGTH], "little")
    first = _LENGTH + length
    if length > _LONGEST_HEADER or first > len(data):
        raise _malformed(path, f"a header of {length:,} bytes does not fit")
    header = _header(path, bytes(data[_LENGTH:first]))
    found = [_tensor(path, name, entry, first) for name, entry in header.items()]
    _check_layout(path, found, first, len(data))
    return found


def _header(path: Path, text: bytes) -> dict[str, Any]:
    try:
        if not text.startswith(b"{"):
            raise ValueError
        header = json.loads(text, object_pairs_hook=_unique)
    except (ValueError, RecursionError):
        raise _malformed(path, "the header is not a JSON object with distinct names") from None
    metadata = header.pop("__metadata__", {})
    texts = isinstance(metadata, dict) and all(isinstance(v, str) for v in metadata.values())
    if not texts:
        raise _malformed(path, "its metadata is not text by name")
    return dict(header)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name comes twice")
    return found


def _tensor(path: Path, name: str, entry: Any, first: int) -> Tensor:
    fields = entry if isinstance(entry, dict) else {}
    dtype = fields.get("dtype")
    if not isinstance(dtype, str) or dtype not in _BITS:
        raise _malformed(path, f"tensor '{name}' has the unknown type {dtype!r}")
    shape, place = _sizes(fields.get("shape")), _sizes(fields.get("data_offsets"))
    if shape is None or place is None or len(place) != 2:
        raise _malformed(path, f"tensor '{name}' has a broken shape or place")
    bits = math.prod(shape) * _BITS[dtype]
    if bits % 8 or place[1] - place[0] != bits // 8:
        raise _malformed(path, f"tensor '{name}' does not fill its place")
    return Tensor(name, dtype, shape, first + place[0], first + place[1])


def _sizes(value: Any) -> tuple[int, ...] | None:
    if isinstance(value, list) and all(type(item) is int and item >= 0 for item in value):
        return tuple(value)
    return None


def _check_layout(path: Path, tensors: list[Tensor], first: int, size: int) -> None:
    """Every byte after the header belongs to exactly one tensor."""
    reached = first
    for tensor in sorted(tensors, key=lambda tensor: (tensor.start, tensor.end)):
        if tensor.start != reached:
            raise _malformed(path, f"tensor '{tensor.name}' overlaps another or leaves a gap")
        reached = tensor.end
    if reached != size:
        raise _malformed(path, f"its tensors end at byte {reached:,} of {size:,}")


def _malformed(path: Path, what: str) -> BaseError:
    return BaseError(f"{path}: not a whole safetensors file: {what}", hint="fetch it again")
