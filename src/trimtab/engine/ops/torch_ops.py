"""The arithmetic of a step in plain torch: the reference, and what runs where C++ cannot."""

from collections.abc import Sequence

import torch
from torch.nn import functional

from trimtab.engine.continuous.batch import Batch
from trimtab.engine.continuous.cache import Cache
from trimtab.engine.llama.family import Shape
from trimtab.engine.llama.linear import Linear, plain
from trimtab.engine.llama.pages import Pages
from trimtab.engine.llama.pair import AnyPair, Pair, Up
from trimtab.engine.llama.weights import Layer
from trimtab.engine.sampling.sampler import best


class TorchOps:
    """Tensors of tokens are (tokens, width), one row a token, whatever sequence it belongs to."""

    name = "torch"
    level = "torch"
    """Of the processor's abilities, where it was compiled for some; else what computes."""

    def __init__(self, dtype: torch.dtype, device: torch.device) -> None:
        self._dtype = dtype
        self._device = device

    def arrange(self, weight: torch.Tensor) -> Linear:
        """The weights of a projection, (outputs, inputs) in the file's dtype, as `linear` wants
        them.
        """
        # A copy of its own, for the file's pages go with the file.
        return plain(weight.to(self._device, self._dtype, copy=True))

    def pair(self, pair: Pair, pages: Pages) -> AnyPair:
        """What an adapter adds at one place, in float32 on a CPU, as `adapt` and `through` want it;
        it lies in `pages`.
        """

        def own(tensor: torch.Tensor) -> torch.Tensor:
            return pages.copy(tensor.to(self._device, self._dtype))

        ups = tuple(Up(own(up.weight), up.row, up.column) for up in pair.ups)
        lengthen = None if pair.lengthen is None else own(pair.lengthen)
        return Pair(own(pair.down), ups, lengthen)

    def through(
        self,
        x: torch.Tensor,
        layers: Sequence[Layer],
        shape: Shape,
        batch: Batch,
        cache: Cache,
    ) -> torch.Tensor:
        """`x`, (tokens, hidden), through all layers; of the wanted tokens comes what they are then,
        (wanted, hidden). `x` is not kept. Keys and values go into the cache.
        """
        delta = None
        for i, layer in enumerate(layers):
            normed = self.norm(x, layer.before_attention, shape.epsilon, delta)
            qkv = self._project(normed, layer.qkv, batch, i, "qkv")
            q = self.rotate_and_store(qkv, i, layer, batch, cache)
            attended = self.attend(q, i, batch, cache)
            delta = self._project(attended, layer.o, batch, i, "o")
            normed = self.norm(x, layer.before_mlp, shape.epsilon, delta)
            gated = self.gate(self._project(normed, layer.gate_up, batch, i, "gate_up"))
            delta = self._project(gated, layer.down, batch, i, "down")
        return (x if delta is None else x + delta)[batch.wanted]

    def _project(
        self, x: torch.Tensor, linear: Linear, batch: Batch, layer: int, group: str
    ) -> torch.Tensor:
        y = self.linear(x, linear)
        if batch.adapted:
            self.adapt(y, x, batch.segments(layer, group))
        if linear.bias is not None:
            y += linear.bias
        return y

    def linear(self, x: torch.Tensor, linear: Linear) -> torch.Tensor:
        """Without the bias: an adapter comes before it."""
        assert linear.plain is not None
        return functional.linear(x, linear.plain)

    def norm(
        self, x: torch.Tensor, weight: torch.Tensor, epsilon: float, delta: torch.Tensor | None
    ) -> torch.Tensor:
        """Add `delta` to `x` in place, then the root-mean-square norm of it."""
        if delta is not None:
            x += delta
        return rms_norm(x, weight, epsilon)

    def rotate_and_store(
        self, qkv: torch.Tensor, index: int, layer: Layer, batch: Batch, cache: Cache
    ) -> torch.Tensor:
        """Queries (tokens, heads, head_dim), rotated; keys and values go into the cache."""
        shape = cache.shape
        heads = qkv.view(len(qkv), -1, shape.head_dim)
        q = heads[:, : shape.heads]
        k, v = heads[:, shape.heads :].chunk(2, dim=1)
        if layer.q_norm is not None and layer.k_norm is not None:
            q = rms_norm(q, layer.q_norm, shape.epsilon)
            k = rms_norm(k, layer.k_norm, shape.epsilon)
        cache.store(index, batch.places, _rotate(k, batch), v)
        return _rotate(q, batch)

    def attend(self, q: torch.Tensor, index: int, batch: Batch, cache: Cache) -> torch.Tensor:
        """Causal attention of each sequence's tokens over what the cache holds of it."""
        out = torch.empty_like(q)
        single = [i for i, (start, end) in enumerate(batch.spans) if end - start == 1]
        if single:
            rows = torch.tensor([batch.spans[i][0] for i in single], device=q.device)
            out[rows] = _attend_single(q[rows], index, batch, cache, single)
        for i, (start, end) in enumerate(batch.spans):
            if end - start > 1:
                out[start:end] = _attend_many(q[start:end], index, batch, cache, i)
        return out.flatten(1)

    def gate(self, gate_up: torch.Tensor) -> torch.Tensor:
        """SwiGLU: silu of the first half, times the second."""
        gate, up = gate_up.chunk(2, dim=1)
        return functional.silu(gate) * up

    def wait(self) -> None:
        """Until the device has computed what it was told to."""
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)

    def best(self, logits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """See sampling.best."""
        return best(logits)

    def adapt(
        self, y: torch.Tensor, x: torch.Tensor, segments: Sequence[tuple[int, int, AnyPair]]
    ) -> None:
        """Add to `y`, in place, what each segment's adapter makes of `x`."""
        for start, end, pair in segments:
            assert isinstance(pair, Pair)
            adapt_segment(y[start:end], x[start:end], pair)


def adapt_segment(y: torch.Tensor, x: torch.Tensor, pair: Pair) -> None:
    between = x @ pair.down.T
    for up in pair.ups:
        y[:, up.columns].addmm_(between[:, up.rows], up.weight)
    if pair.lengthen is not None:
        y *= pair.lengthen


def rms_norm(x: torch.Tensor, weight: torch.Tensor, epsilon: float) -> torch.Tensor:
    wide = x.float()
    wide = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + epsilon)
    return weight * wide.to(x.dtype)


def _rotate(x: torch.Tensor, batch: Batch) -> torch.Tensor:
    """The halves of each head are the two coordinates that turn."""
    cos, sin = (part.unsqueeze(1).to(x.dtype) for part in batch.rotations)
    first, second = x.chunk(2, dim=-1)
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)


def _attend_single(
    q: torch.Tensor, layer: int, batch: Batch, cache: Cache, sequences: Sequence[int]
) -> torch.Tensor:
    """One token each: the heads that share keys stand where a longer query's tokens would."""
    lengths = batch.lengths[sequences]
    width = max(batch.counts[i] for i in sequences)
    k, v = cache.gather(layer, batch.tables[sequences].long(), width)
    mask = torch.arange(width, device=q.device) < lengths.unsqueeze(1)
    # What lies there may be another's, and not a number, which no weight of nought makes one.
    strange = ~mask[:, None, :, None]
    k, v = k.masked_fill(strange, 0), v.masked_fill(strange, 0)
    grouped = q.view(len(q), k.shape[1], -1, q.shape[2])
    out = functional.scaled_dot_product_attention(grouped, k, v, attn_mask=mask[:, None, None, :])
    return out.flatten(1, 2)


def _attend_many(
    q: torch.Tensor, layer: int, batch: Batch, cache: Cache, sequence: int
) -> torch.Tensor:
    length = batch.counts[sequence]
    tokens, heads, width = q.shape
    k, v = cache.gather(layer, batch.tables[sequence].long().unsqueeze(0), length)
    column = torch.arange(length, device=q.device)
    row = torch.arange(length - tokens, length, device=q.device)
    mask = (column <= row.unsqueeze(1)).repeat(heads // k.shape[1], 1)
    # (1, kv heads, heads of each * tokens, head_dim)
    grouped = q.transpose(0, 1).reshape(1, k.shape[1], -1, width)
    out = functional.scaled_dot_product_attention(grouped, k, v, attn_mask=mask)
    return out.reshape(heads, tokens, width).transpose(0, 1)
