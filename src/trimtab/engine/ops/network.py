"""All layers of a step in one compiled call, for float32 over panels.

Python between the kernels would be much of a step of few tokens, and each return from a kernel
would wait for whoever else runs in the interpreter. Knows how kernels/network.h lays its
structures out.
"""

import ctypes
import struct
from array import array
from collections.abc import Sequence
from weakref import WeakKeyDictionary

import torch

from trimtab.engine.continuous.batch import Batch
from trimtab.engine.continuous.cache import Cache
from trimtab.engine.llama.family import Shape
from trimtab.engine.llama.linear import Linear
from trimtab.engine.llama.lora import Adapter
from trimtab.engine.llama.weights import PARTS, Layer
from trimtab.engine.ops.pairs import ABSENT, structure

GROUPS = tuple(PARTS)

# `Projection`, `Layer`, `Network` and `Step` of kernels/network.h.
_PROJECTION = struct.Struct("=2Q3q")
_NORMS = struct.Struct("=4Q")
_NETWORK = struct.Struct("=6qd")
_STEP = struct.Struct("=9Q6q")

_adapters: WeakKeyDictionary[Adapter, ctypes.Array[ctypes.c_char]] = WeakKeyDictionary()


class Network:
    """`function` is the compiled `through`."""

    def __init__(self, function: "ctypes._NamedFuncPointer") -> None:
        self._function = function
        self._layers: Sequence[Layer] | None = None
        self._told = b""
        self._able = False

    def takes(self, layers: Sequence[Layer]) -> bool:
        """Whether all that is multiplied lies in panels."""
        if layers is not self._layers:
            linears = [getattr(layer, group) for layer in layers for group in GROUPS]
            self._able = bool(layers) and all(linear.panels is not None for linear in linears)
            self._told = b"".join(map(_layer, layers)) if self._able else b""
            self._layers = layers
        return self._able

    def through(
        self,
        x: torch.Tensor,
        layers: Sequence[Layer],
        shape: Shape,
        batch: Batch,
        cache: Cache,
    ) -> torch.Tensor:
        """See TorchOps. `x` is float32."""
        out = x.new_empty(len(batch.wanted), shape.hidden)
        cached = cache.keys[0].numel()
        network = _NETWORK.pack(
            len(layers),
            shape.hidden,
            shape.heads,
            shape.kv_heads,
            shape.head_dim,
            cached,
            shape.epsilon,
        )
        adapters = list(dict.fromkeys(adapter for _, _, adapter in batch.adapted))
        number = {adapter: at for at, adapter in enumerate(adapters)}
        tables = [_table(adapter, len(layers)) for adapter in adapters]
        where = array("Q", [ctypes.addressof(table) for table in tables])
        spans = array("i")
        for start, end, adapter in batch.adapted:
            spans.extend((start, end, number[adapter]))
        cos, sin = batch.rotations
        step = _STEP.pack(
            cos.data_ptr(),
            sin.data_ptr(),
            batch.places.data_ptr(),
            batch.tables.data_ptr(),
            batch.starts.data_ptr(),
            batch.lengths.data_ptr(),
            spans.buffer_info()[0],
            where.buffer_info()[0],
            batch.wanted.data_ptr(),
            len(x),
            len(batch.spans),
            batch.tables.shape[1],
            len(batch.adapted),
            len(adapters),
            len(out),
        )
        self._function(
            x.data_ptr(),
            out.data_ptr(),
            self._told,
            network,
            step,
            cache.keys.data_ptr(),
            cache.values.data_ptr(),
        )
        return out


def _table(adapter: Adapter, layers: int) -> "ctypes.Array[ctypes.c_char]":
    """Its pairs by layer and fused projection."""
    if (table := _adapters.get(adapter)) is None:
        places = [(layer, group) for layer in range(layers) for group in GROUPS]
        pairs = [adapter.pairs.get(place) for place in places]
        told = b"".join(ABSENT if pair is None else structure(pair) for pair in pairs)
        table = _adapters[adapter] = ctypes.create_string_buffer(told, len(told))
    return table


def _layer(layer: Layer) -> bytes:
    norms = (layer.before_attention, layer.before_mlp, layer.q_norm, layer.k_norm)
    projections = [_projection(getattr(layer, group)) for group in GROUPS]
    return b"".join(projections) + _NORMS.pack(*map(_place, norms))


def _projection(linear: Linear) -> bytes:
    assert linear.panels is not None
    outputs, inputs = linear.size
    narrow = linear.panels.dtype == torch.bfloat16
    return _PROJECTION.pack(linear.panels.data_ptr(), _place(linear.bias), narrow, inputs, outputs)


def _place(tensor: torch.Tensor | None) -> int:
    return 0 if tensor is None else tensor.data_ptr()
