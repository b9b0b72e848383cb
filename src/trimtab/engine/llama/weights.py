"""The weights of a Llama-family base, from safetensors into the form that they are computed in.

Projections that read the same input are one matrix: query, key and value; gate and up. Knows
nothing of adapters.
"""

import math
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from trimtab.engine.llama.family import Shape
from trimtab.engine.llama.linear import Linear
from trimtab.errors import BaseError

HINT = "a base is config.json, tokenizer.json and model.safetensors; pull it again"

# What is fused, in the order of its rows.
PARTS = {
    "qkv": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "o": ("self_attn.o_proj",),
    "gate_up": ("mlp.gate_proj", "mlp.up_proj"),
    "down": ("mlp.down_proj",),
}


Arrange = Callable[[torch.Tensor], Linear]
"""Makes of a projection's rows, in the file's dtype, what is computed with."""


@dataclass(slots=True)
class Layer:
    qkv: Linear
    o: Linear
    gate_up: Linear
    down: Linear
    before_attention: torch.Tensor
    before_mlp: torch.Tensor
    q_norm: torch.Tensor | None
    k_norm: torch.Tensor | None


@dataclass(slots=True)
class Weights:
    """`embedding` may be narrower than what is computed in: its rows are widened one by one."""

    embedding: torch.Tensor
    layers: list[Layer]
    norm: torch.Tensor
    head: Linear


def widths(shape: Shape) -> dict[str, tuple[int, int]]:
    """(outputs, inputs) of each projection of a layer."""
    return {
        "self_attn.q_proj": (shape.q_width, shape.hidden),
        "self_attn.k_proj": (shape.kv_width, shape.hidden),
        "self_attn.v_proj": (shape.kv_width, shape.hidden),
        "self_attn.o_proj": (shape.hidden, shape.q_width),
        "mlp.gate_proj": (shape.intermediate, shape.hidden),
        "mlp.up_proj": (shape.intermediate, shape.hidden),
        "mlp.down_proj": (shape.hidden, shape.intermediate),
    }


def load_weights(
    base: Path, shape: Shape, dtype: torch.dtype, device: torch.device, arrange: Arrange
) -> Weights:
    """Raises BaseError where a weight is missing, misshapen, truncated or not finite."""
    with ExitStack() as stack:
        read = _Reader(base, stack, dtype, device, arrange)
        layers = [_layer(read, shape, f"model.layers.{i}") for i in range(shape.layers)]
        size = (shape.vocabulary, shape.hidden)
        head_name = "model.embed_tokens" if shape.tied else "lm_head"
        head = read.linear([head_name], {head_name: size}, False)
        shared = head.plain if shape.tied else None
        embedding = read.embedding("model.embed_tokens.weight", size) if shared is None else shared
        return Weights(embedding, layers, read.tensor("model.norm.weight", (shape.hidden,)), head)


def _layer(read: "_Reader", shape: Shape, prefix: str) -> Layer:
    sizes = {f"{prefix}.{name}": size for name, size in widths(shape).items()}
    biased = {
        "qkv": shape.qkv_bias,
        "o": shape.o_bias,
        "gate_up": shape.mlp_bias,
        "down": shape.mlp_bias,
    }

    def fused(group: str) -> Linear:
        names = [f"{prefix}.{name}" for name in PARTS[group]]
        return read.linear(names, sizes, biased[group])

    def head_norm(name: str) -> torch.Tensor | None:
        if not shape.qk_norm:
            return None
        return read.tensor(f"{prefix}.self_attn.{name}.weight", (shape.head_dim,))

    return Layer(
        qkv=fused("qkv"),
        o=fused("o"),
        gate_up=fused("gate_up"),
        down=fused("down"),
        before_attention=read.tensor(f"{prefix}.input_layernorm.weight", (shape.hidden,)),
        before_mlp=read.tensor(f"{prefix}.post_attention_layernorm.weight", (shape.hidden,)),
        q_norm=head_norm("q_norm"),
        k_norm=head_norm("k_norm"),
    )


class _Reader:
    """The tensors of all safetensors files of a folder, by name."""

    def __init__(
        self,
        folder: Path,
        stack: ExitStack,
        dtype: torch.dtype,
        device: torch.device,
        arrange: Arrange,
    ) -> None:
        self._folder = folder
        self._dtype = dtype
        self._device = device
        self._arrange = arrange
        self._files: dict[str, Any] = {}
        for path in sorted(folder.glob("*.safetensors")):
            try:
                file = stack.enter_context(safe_open(path, framework="pt"))
            except (SafetensorError, OSError) as error:
                raise BaseError(f"{path}: {error}", hint=HINT) from error
            self._files.update(dict.fromkeys(file.keys(), file))
        if not self._files:
            raise BaseError(f"{folder}: holds no safetensors file", hint=HINT)

    def tensor(self, name: str, size: tuple[int, ...]) -> torch.Tensor:
        return self._raw(name, size).to(self._device, self._dtype)

    def embedding(self, name: str, size: tuple[int, int]) -> torch.Tensor:
        raw = self._raw(name, size)
        # A copy of its own, for the file's pages go with the file.
        narrow = raw.dtype == torch.bfloat16
        return raw.to(self._device, torch.bfloat16 if narrow else self._dtype, copy=True)

    def linear(self, names: list[str], sizes: dict[str, tuple[int, int]], biased: bool) -> Linear:
        rows = [self._raw(f"{name}.weight", sizes[name]) for name in names]
        linear = self._arrange(rows[0] if len(rows) == 1 else torch.cat(rows))
        if biased:
            linear.bias = torch.cat(
                [self.tensor(f"{name}.bias", sizes[name][:1]) for name in names]
            )
        return linear

    def _raw(self, name: str, size: tuple[int, ...]) -> torch.Tensor:
        if name not in self._files:
            raise BaseError(f"{self._folder}: weight {name} is missing", hint=HINT)
        tensor: torch.Tensor = self._files[name].get_tensor(name)
        if tuple(tensor.shape) != size:
            raise BaseError(
                f"{self._folder}: weight {name} is {tuple(tensor.shape)}, the config says {size}",
                hint=HINT,
            )
        # NaN spreads to both ends, and infinity is one of them.
        if not all(math.isfinite(end) for end in tensor.aminmax()):
            raise BaseError(f"{self._folder}: {name} holds NaN or infinity", hint=HINT)
        return tensor
