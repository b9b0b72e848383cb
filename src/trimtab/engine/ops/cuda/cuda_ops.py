"""The arithmetic of a step on an NVIDIA GPU: torch multiplies matrices, Triton does the rest."""

from collections.abc import Sequence
from weakref import WeakKeyDictionary

import torch
import triton
from torch.nn import functional

from trimtab.engine.continuous.batch import Batch
from trimtab.engine.continuous.cache import Cache
from trimtab.engine.llama.family import Shape
from trimtab.engine.llama.linear import Linear
from trimtab.engine.llama.lora import Adapter
from trimtab.engine.llama.pair import Pair
from trimtab.engine.llama.weights import Layer
from trimtab.engine.ops.cuda import adapters, attention, rows
from trimtab.engine.ops.cuda.graphs import Graphs, Recorder
from trimtab.engine.ops.cuda.step import Step, step
from trimtab.engine.ops.torch_ops import TorchOps

LEAST_RANK = 16


class CudaOps(TorchOps):
    """For the shape of one base; see `takes`."""

    name = "cuda"
    level = "triton"

    def __init__(self, shape: Shape, dtype: torch.dtype, device: torch.device) -> None:
        super().__init__(dtype, device)
        self._shape = shape
        q, k = shape.q_width, shape.q_width + shape.kv_width
        self._bounds = {"qkv": (0, q, k), "o": (0,), "gate_up": (0, shape.intermediate)}
        self._bounds["down"] = (0,)
        self._tables: WeakKeyDictionary[Adapter, torch.Tensor] = WeakKeyDictionary()
        self._rank = 0
        self._graphs = Graphs(self._layers, Recorder()) if device.type == "cuda" else None

    def norm(
        self, x: torch.Tensor, weight: torch.Tensor, epsilon: float, delta: torch.Tensor | None
    ) -> torch.Tensor:
        out = torch.empty_like(x)
        if len(x):
            rows.norm(x, delta, weight, out, epsilon)
        return out

    def through(
        self,
        x: torch.Tensor,
        layers: Sequence[Layer],
        shape: Shape,
        batch: Batch,
        cache: Cache,
    ) -> torch.Tensor:
        used = list(dict.fromkeys(adapter for _, _, adapter in batch.adapted))
        tables = {adapter: self._table(adapter) for adapter in used}
        # The largest so far, so that no graph is captured for a smaller one.
        self._rank = max([self._rank, *map(_rank, used)])
        rank = self._rank if used else 0
        given = step(batch, shape.heads // shape.kv_heads, tables, rank)
        made = None
        if self._graphs is not None:
            made = self._graphs.through(x, layers, given, cache)
        if made is None:
            made = self._layers(x, layers, given.on(x.device), cache)
        return made if len(batch.wanted) == len(made) else made[batch.wanted]

    def _layers(
        self, x: torch.Tensor, layers: Sequence[Layer], given: Step, cache: Cache
    ) -> torch.Tensor:
        """All tokens of `x` through all layers; `x` is not kept."""
        shape, epsilon = cache.shape, cache.shape.epsilon
        attended = x.new_empty(len(x), shape.q_width)
        gated = x.new_empty(len(x), shape.intermediate)
        delta = None
        for i, layer in enumerate(layers):
            place = i * len(adapters.GROUPS)
            normed = self.norm(x, layer.before_attention, epsilon, delta)
            qkv = self._projected(normed, layer.qkv, given, place, "qkv")
            rows.rotate_and_store(qkv, i, layer, given.places, given.rotations, cache)
            attention.attend(qkv, attended, given.tiles, given.tables, i, cache)
            delta = self._projected(attended, layer.o, given, place, "o")
            normed = self.norm(x, layer.before_mlp, epsilon, delta)
            rows.gate(self._projected(normed, layer.gate_up, given, place, "gate_up"), gated)
            delta = self._projected(gated, layer.down, given, place, "down")
        return x if delta is None else x + delta

    def _projected(
        self, x: torch.Tensor, linear: Linear, given: Step, place: int, group: str
    ) -> torch.Tensor:
        assert linear.plain is not None
        if given.patches is None:
            return functional.linear(x, linear.plain, linear.bias)
        y = functional.linear(x, linear.plain)
        place += adapters.GROUPS.index(group)
        adapters.adapt(y, x, given.patches, place, self._bounds[group], given.rank)
        if linear.bias is not None:
            y += linear.bias
        return y

    def _table(self, adapter: Adapter) -> torch.Tensor:
        if (known := self._tables.get(adapter)) is None:
            made = adapters.table(adapter, self._shape.layers, self._bounds)
            known = self._tables[adapter] = made.to(self._device)
        return known


def _rank(adapter: Adapter) -> int:
    """Rows of its largest `down`, as a power of two."""
    downs = [len(pair.down) for pair in adapter.pairs.values() if isinstance(pair, Pair)]
    return int(triton.next_power_of_2(max(LEAST_RANK, *downs)))


def takes(shape: Shape, dtype: torch.dtype) -> bool:
    """Whether the kernels compute such a network."""
    if dtype not in (torch.float32, torch.bfloat16) or shape.head_dim % 2:
        return False
    head = attention.padded_head(shape.head_dim) * dtype.itemsize
    return head <= attention.LARGEST_HEAD


def try_out(dtype: torch.dtype, device: torch.device) -> None:
    """Build and run the smallest kernel. Raises what Triton does where there is no compiler for its
    launcher, or a card that it does not know.
    """
    one = torch.ones(1, 16, dtype=dtype, device=device)
    rows.norm(one, None, one[0], torch.empty_like(one), 1e-5)
