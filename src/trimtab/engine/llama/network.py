"""The network of the Llama family over a batch of tokens. Knows nothing of requests."""

import torch
from torch.nn import functional

from trimtab.engine.continuous.batch import Batch
from trimtab.engine.continuous.cache import Cache
from trimtab.engine.llama.family import Shape
from trimtab.engine.llama.weights import Weights
from trimtab.engine.ops import TorchOps


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
        ops, weights = self.ops, self.weights
        x = functional.embedding(batch.tokens, weights.embedding).to(weights.norm.dtype)
        x = ops.through(x, weights.layers, self.shape, batch, cache)
        normed = ops.norm(x, weights.norm, self.shape.epsilon, None)
        return ops.linear(normed, weights.head)
