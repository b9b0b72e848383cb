"""The arithmetic of a step in C++ where it pays: steps of few tokens on a CPU."""

import ctypes
from collections.abc import Sequence
from pathlib import Path

import torch

from trimtab.engine.batch import Batch
from trimtab.engine.cache import Cache
from trimtab.engine.family import Shape
from trimtab.engine.lora import Pair
from trimtab.engine.ops.torch_ops import TorchOps, adapt_segment
from trimtab.engine.packed import multiply
from trimtab.engine.weights import Layer, Linear

# Head dimensions that the kernels' registers divide.
LANES = 16

# Up to here a step waits for the weights to come from memory, in half as many bytes; beyond, for
# the multiplications, which the library does better.
NARROW_TOKENS = 16

# From here on a segment of one adapter is worth a matrix product of its own.
LONG_SEGMENT = 24


class _Adapting(ctypes.Structure):
    _fields_ = [
        ("down", ctypes.c_void_p),
        ("up", ctypes.c_void_p),
        ("lengthen", ctypes.c_void_p),
        ("rank", ctypes.c_int64),
    ]


class NativeOps(TorchOps):
    """For float32 and bfloat16 on a CPU; see `fits`."""

    name = "native"

    def __init__(self, library: Path, dtype: torch.dtype) -> None:
        loaded = ctypes.CDLL(str(library))
        suffix = str(dtype).removeprefix("torch.")
        self._norm = _function(loaded, f"norm_{suffix}", "ppppiif")
        self._rotate_and_store = _function(loaded, f"rotate_and_store_{suffix}", "ppppppppiiiif")
        self._attend = _function(loaded, f"attend_{suffix}", "ppppippipiii")
        self._gate = _function(loaded, f"gate_{suffix}", "ppii")
        self._adapt = _function(loaded, f"adapt_{suffix}", "ppiiipp")
        self._linear_narrow = _function(loaded, "linear_narrow", "pppiii")

    def linear(self, x: torch.Tensor, linear: Linear) -> torch.Tensor:
        if linear.narrow is None or not 0 < len(x) <= NARROW_TOKENS:
            if linear.packed is not None and len(x):
                return multiply(x, linear.packed)
            return super().linear(x, linear)
        outputs, inputs = linear.narrow.shape
        x = x.contiguous()
        y = x.new_empty(len(x), outputs)
        self._linear_narrow(
            x.data_ptr(), linear.narrow.data_ptr(), y.data_ptr(), len(x), inputs, outputs
        )
        return y

    def norm(
        self, x: torch.Tensor, weight: torch.Tensor, epsilon: float, delta: torch.Tensor | None
    ) -> torch.Tensor:
        out = torch.empty_like(x)
        more = None if delta is None else delta.data_ptr()
        self._norm(
            x.data_ptr(), more, weight.data_ptr(), out.data_ptr(), len(x), x.shape[1], epsilon
        )
        return out

    def rotate_and_store(
        self, qkv: torch.Tensor, index: int, layer: Layer, batch: Batch, cache: Cache
    ) -> torch.Tensor:
        """Rotates in place: what comes back is query, key and value, (tokens, qkv width)."""
        shape = cache.shape
        keys, values = cache.keys[index], cache.values[index]
        cos, sin = batch.rotations
        self._rotate_and_store(
            qkv.data_ptr(),
            None if layer.q_norm is None else layer.q_norm.data_ptr(),
            None if layer.k_norm is None else layer.k_norm.data_ptr(),
            cos.data_ptr(),
            sin.data_ptr(),
            keys.data_ptr(),
            values.data_ptr(),
            batch.places.data_ptr(),
            len(qkv),
            shape.heads,
            shape.kv_heads,
            shape.head_dim,
            shape.epsilon,
        )
        return qkv

    def attend(self, q: torch.Tensor, index: int, batch: Batch, cache: Cache) -> torch.Tensor:
        """`q` is what `rotate_and_store` returned."""
        shape = cache.shape
        keys, values = cache.keys[index], cache.values[index]
        out = q.new_empty(len(q), shape.q_width)
        self._attend(
            q.data_ptr(),
            keys.data_ptr(),
            values.data_ptr(),
            batch.tables.data_ptr(),
            batch.tables.shape[1],
            batch.starts.data_ptr(),
            batch.lengths.data_ptr(),
            len(batch.spans),
            out.data_ptr(),
            shape.heads,
            shape.kv_heads,
            shape.head_dim,
        )
        return out

    def gate(self, gate_up: torch.Tensor) -> torch.Tensor:
        width = gate_up.shape[1] // 2
        out = gate_up.new_empty(len(gate_up), width)
        self._gate(gate_up.data_ptr(), out.data_ptr(), len(gate_up), width)
        return out

    def adapt(
        self, y: torch.Tensor, x: torch.Tensor, segments: Sequence[tuple[int, int, Pair]]
    ) -> None:
        short = [segment for segment in segments if segment[1] - segment[0] < LONG_SEGMENT]
        for start, end, pair in segments:
            if end - start >= LONG_SEGMENT:
                adapt_segment(y[start:end], x[start:end], pair)
        if not short:
            return
        which = [-1] * len(x)
        for i, (start, end, _) in enumerate(short):
            which[start:end] = [i] * (end - start)
        pairs = (_Adapting * len(short))(*(_adapting(pair) for _, _, pair in short))
        self._adapt(
            y.data_ptr(),
            x.data_ptr(),
            x.shape[1],
            y.shape[1],
            len(x),
            ctypes.cast(pairs, ctypes.c_void_p),
            ctypes.cast((ctypes.c_int32 * len(which))(*which), ctypes.c_void_p),
        )


def fits(shape: Shape, dtype: torch.dtype, device: torch.device) -> bool:
    """Whether the kernels compute such a network."""
    known = dtype in (torch.float32, torch.bfloat16)
    return known and device.type == "cpu" and shape.head_dim % LANES == 0


def _adapting(pair: Pair) -> _Adapting:
    lengthen = None if pair.lengthen is None else pair.lengthen.data_ptr()
    return _Adapting(pair.down.data_ptr(), pair.up.data_ptr(), lengthen, len(pair.down))


def _function(library: ctypes.CDLL, name: str, signature: str) -> "ctypes._NamedFuncPointer":
    """`signature`: a letter an argument, p a pointer, i a 32-bit integer, f a float."""
    kinds = {"p": ctypes.c_void_p, "i": ctypes.c_int, "f": ctypes.c_float}
    function = getattr(library, name)
    function.argtypes = [kinds[letter] for letter in signature]
    function.restype = None
    return function  # type: ignore[no-any-return]
