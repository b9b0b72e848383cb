"""The network of the Llama family over a batch of tokens. Knows nothing of requests."""

import torch
from torch.nn import functional

from trimtab.engine.batch import Batch
from trimtab.engine.cache import Cache
from trimtab.engine.family import Shape
from trimtab.engine.linear import Linear
from trimtab.engine.ops import TorchOps
from trimtab.engine.weights import Weights


class Llama:
    """`weights` computed by `ops`."""

    def __init__(self, shape: Shape, weights: Weights, ops: TorchOps) -> None:
        self.shape = shape
        self.weights = weights
        self.ops = ops

    def forward(self, batch: Batch, cache: Cache) -> torch.Tensor:
        """The logits (wanted rows, vocabulary) of a batch; its keys and values go into the cache.

        Call it under `torch.inference_mode`.
        """
        ops, epsilon = self.ops, self.shape.epsilon
        x = functional.embedding(batch.tokens, self.weights.embedding).to(self.weights.norm.dtype)
        delta = None
        for i, layer in enumerate(self.weights.layers):
            normed = ops.norm(x, layer.before_attention, epsilon, delta)
            qkv = self._project(normed, layer.qkv, batch, i, "qkv")
            q = ops.rotate_and_store(qkv, i, layer, batch, cache)
            attended = ops.attend(q, i, batch, cache)
            delta = self._project(attended, layer.o, batch, i, "o")
            normed = ops.norm(x, layer.before_mlp, epsilon, delta)
            gated = ops.gate(self._project(normed, layer.gate_up, batch, i, "gate_up"))
            delta = self._project(gated, layer.down, batch, i, "down")
        if delta is not None:
            x = x + delta
        normed = ops.norm(x[batch.wanted], self.weights.norm, epsilon, None)
        return ops.linear(normed, self.weights.head)

    def _project(
        self, x: torch.Tensor, linear: Linear, batch: Batch, layer: int, group: str
    ) -> torch.Tensor:
        y = self.ops.linear(x, linear)
        if batch.adapted:
            self.ops.adapt(y, x, batch.segments(layer, group))
        if linear.bias is not None:
            y += linear.bias
        return y
