import json
import re
import struct
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import SafetensorError
from safetensors.numpy import load, save_file

from trimtab.errors import BaseError
from trimtab.registry.tensors import opened


def written(path: Path, header: Any, data: bytes = b"") -> Path:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)
    return path


def entry(shape: list[int], start: int, end: int, dtype: str = "U8") -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}


def test_the_tensors_are_those_of_the_library(tmp_path: Path) -> None:
    arrays = {
        "weight": np.arange(12, dtype=np.float32).reshape(3, 4),
        "bias": np.array([1, 2], dtype=np.float16),
        "scalar": np.array(7, dtype=np.int64),
        "nothing": np.zeros((0, 4), dtype=np.uint8),
    }
    save_file(arrays, tmp_path / "a.safetensors", metadata={"format": "pt"})
    with opened(tmp_path / "a.safetensors") as (tensors, data):
        found = {
            tensor.name: (tensor.shape, bytes(data[tensor.start : tensor.end]))
            for tensor in tensors
        }
        assert sum(tensor.size for tensor in tensors) == 12 + 2 + 1
    assert found == {name: (array.shape, array.tobytes()) for name, array in arrays.items()}


def test_every_type_that_the_library_knows_is_known(tmp_path: Path) -> None:
    with pytest.raises(SafetensorError, match="unknown variant") as refused:
        load(written(tmp_path / "a", {"a": entry([1], 0, 1, "PICKLE")}, b"x").read_bytes())
    kinds = set(re.findall("`([A-Z][A-Z0-9_]+)`", str(refused.value))) - {"PICKLE"}
    assert len(kinds) > 15
    for kind in kinds:
        path = written(tmp_path / kind, {"a": entry([0], 0, 0, kind)})
        with opened(path) as (tensors, _):
            assert [tensor.dtype for tensor in tensors] == [kind]


BROKEN = {
    "empty": b"",
    "short": b"\x01\x00",
    "header longer than the file": struct.pack("<Q", 100) + b"{}",
    "enormous header": struct.pack("<Q", 2**63) + b"{}",
}
BROKEN_HEADERS: dict[str, tuple[Any, bytes]] = {
    "not JSON": (b"{", b""),
    "not an object": (b"[]", b""),
    "not UTF-8": (b'{"\xff": 1}', b""),
    "deep": (b'{"a":' + b"[" * 100_000, b""),
    "a name twice": (
        b'{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},'
        b'"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}',
        b"x",
    ),
    "metadata that is no text": ({"__metadata__": {"a": 1}}, b""),
    "not a tensor": ({"a": 1}, b""),
    "unknown type": ({"a": entry([1], 0, 1, "PICKLE")}, b"x"),
    "type that is no name": ({"a": {"dtype": ["U8"], "shape": [], "data_offsets": [0, 1]}}, b"x"),
    "negative size": ({"a": entry([-1], 0, 1)}, b"x"),
    "true as a size": ({"a": {"dtype": "U8", "shape": [True], "data_offsets": [0, 1]}}, b"x"),
    "one offset": ({"a": {"dtype": "U8", "shape": [1], "data_offsets": [0]}}, b"x"),
    "beyond the end": ({"a": entry([5], 0, 5)}, b"abc"),
    "backwards": ({"a": entry([1], 2, 1)}, b"abc"),
    "larger than its place": ({"a": entry([4], 0, 3)}, b"abc"),
    "overlap": ({"a": entry([2], 0, 2), "b": entry([2], 1, 3)}, b"abc"),
    "gap": ({"a": entry([1], 0, 1), "b": entry([1], 2, 3)}, b"abc"),
    "bytes after the end": ({"a": entry([1], 0, 1)}, b"abc"),
    "half a byte": ({"a": entry([1], 0, 0, "F4")}, b""),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_file_is_refused(tmp_path: Path, name: str) -> None:
    path = tmp_path / "a.safetensors"
    path.write_bytes(BROKEN[name])
    with pytest.raises(BaseError, match="not a whole safetensors file"), opened(path):
        pass


@pytest.mark.parametrize("name", BROKEN_HEADERS)
def test_a_broken_header_is_refused(tmp_path: Path, name: str) -> None:
    path = written(tmp_path / "a.safetensors", *BROKEN_HEADERS[name])
    with pytest.raises(BaseError, match="not a whole safetensors file"), opened(path):
        pass


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_whatever_is_accepted_the_library_accepts_too(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    path = tmp_path_factory.getbasetemp() / "damaged.safetensors"
    save_file({"a": np.arange(3, dtype=np.int16), "b": np.zeros(2, dtype=np.float32)}, path)
    whole = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(whole[: data.draw(st.sampled_from([len(whole), len(whole) - 1]))])
    try:
        with opened(path) as (tensors, _):
            found = {tensor.name: tensor.shape for tensor in tensors}
    except BaseError:
        return
    # numpy lacks some types (KeyError), which says nothing about the file.
    with suppress(KeyError):
        assert found.keys() == load(path.read_bytes()).keys()
