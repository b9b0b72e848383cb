"""The arithmetic of a step in C++ where it pays: steps of few tokens on a CPU."""

from array import array
from collections.abc import Sequence
from pathlib import Path

import torch

from trimtab.engine.continuous.batch import Batch
from trimtab.engine.continuous.cache import Cache
from trimtab.engine.llama.family import Shape
from trimtab.engine.llama.linear import PANEL, Linear, multiply, packed
from trimtab.engine.llama.pages import Pages
from trimtab.engine.llama.pair import AnyPair, Pair
from trimtab.engine.llama.weights import Layer
from trimtab.engine.ops.compiled import Compiled
from trimtab.engine.ops.network import Network
from trimtab.engine.ops.pairs import structure, told
from trimtab.engine.ops.torch_ops import TorchOps

# Head dimensions that the kernels' registers divide, at every level.
LANES = 16


class NativeOps(TorchOps):
    """For float32 and bfloat16 on a CPU; see `fits`."""

    name = "native"

    def __init__(self, path: Path, dtype: torch.dtype, level: str | None = None) -> None:
        """Raises as `Compiled` does."""
        super().__init__(dtype, torch.device("cpu"))
        self._pages = Pages()
        compiled = Compiled(path, level)
        self.level = compiled.level
        suffix = str(dtype).removeprefix("torch.")
        self._norm = compiled.function(f"norm_{suffix}", "ppppiif")
        self._rotate_and_store = compiled.function(f"rotate_and_store_{suffix}", "ppppppppiiiif")
        self._attend = compiled.function(f"attend_{suffix}", "ppppippipiii")
        self._gate = compiled.function(f"gate_{suffix}", "ppii")
        self._adapt = compiled.function(f"adapt_{suffix}", "ppiippi")
        self._linear = {
            torch.float32: compiled.function("linear_float32", "pppiii"),
            torch.bfloat16: compiled.function("linear_bfloat16", "pppiii"),
        }
        self._best = compiled.function("best_float32", "pppii")
        self._panel = {
            torch.float32: compiled.function("panel_float32", "ppii"),
            torch.bfloat16: compiled.function("panel_bfloat16", "ppii"),
        }
        self._network = Network(compiled.function("through", "ppppppp"))

    def arrange(self, weight: torch.Tensor) -> Linear:
        """Computed in float32, numbers that were stored in bfloat16 stay in it: half the bytes to
        read, and no other result.
        """
        if self._dtype != torch.float32:
            return packed(weight.to(self._dtype))
        narrow = weight.dtype == torch.bfloat16
        rows = weight if narrow else weight.to(torch.float32)
        outputs, inputs = rows.shape
        return Linear((outputs, inputs), panels=self._panels(rows, self._pages))

    def pair(self, pair: Pair, pages: Pages) -> AnyPair:
        return told(pair, self._dtype, self._panels, pages)

    def _panels(self, rows: torch.Tensor, pages: Pages) -> torch.Tensor:
        rows = rows.contiguous()
        outputs, inputs = rows.shape
        panels = pages.empty((-(-outputs // PANEL), inputs, PANEL), rows.dtype)
        self._panel[rows.dtype](rows.data_ptr(), panels.data_ptr(), outputs, inputs)
        return panels

    def through(
        self,
        x: torch.Tensor,
        layers: Sequence[Layer],
        shape: Shape,
        batch: Batch,
        cache: Cache,
    ) -> torch.Tensor:
        if self._network.takes(layers):
            return self._network.through(x, layers, shape, batch, cache)
        return super().through(x, layers, shape, batch, cache)

    def linear(self, x: torch.Tensor, linear: Linear) -> torch.Tensor:
        outputs, inputs = linear.size
        if not len(x):
            return x.new_empty(0, outputs)
        if linear.packed is not None:
            return multiply(x, linear.packed)
        if linear.panels is None:
            return super().linear(x, linear)
        x = x.contiguous()
        y = x.new_empty(len(x), outputs)
        self._linear[linear.panels.dtype](
            x.data_ptr(), linear.panels.data_ptr(), y.data_ptr(), len(x), inputs, outputs
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

    def best(self, logits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        logits = logits.contiguous()
        tokens = torch.empty(len(logits), dtype=torch.long)
        normalisers = logits.new_empty(len(logits))
        self._best(
            logits.data_ptr(),
            tokens.data_ptr(),
            normalisers.data_ptr(),
            len(logits),
            logits.shape[1],
        )
        return tokens, normalisers

    def adapt(
        self, y: torch.Tensor, x: torch.Tensor, segments: Sequence[tuple[int, int, AnyPair]]
    ) -> None:
        if not segments:
            return
        pairs = b"".join([structure(pair) for _, _, pair in segments])
        spans = array("i")
        for number, (start, end, _) in enumerate(segments):
            spans.extend((start, end, number))
        where, _ = spans.buffer_info()
        self._adapt(y.data_ptr(), x.data_ptr(), x.shape[1], y.shape[1], pairs, where, len(segments))


def fits(shape: Shape, dtype: torch.dtype, device: torch.device) -> bool:
    """Whether the kernels compute such a network."""
    known = dtype in (torch.float32, torch.bfloat16)
    return known and device.type == "cpu" and shape.head_dim % LANES == 0
