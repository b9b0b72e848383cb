"""Bottleneck adapters computed by hand, out of transformers' own sublayers and an adapter's tensors
(Houlsby et al., 2019).
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch

Weights = Mapping[str, torch.Tensor]
ACTIVATIONS: Mapping[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "relu": lambda x: x.clamp(min=0),
    "silu": lambda x: x / (1 + (-x).exp()),
}


def by_hand(weights: Weights, path: str, activation: str) -> Callable[[torch.Tensor], torch.Tensor]:
    """y = x + W_up f(W_down x + b) + c, behind the sublayer at `path`."""
    part = {
        name: weights[f"{path}.bottleneck.{name}"]
        for name in ("down.weight", "down.bias", "up.weight", "up.bias")
    }

    def bottleneck(x: torch.Tensor) -> torch.Tensor:
        inside = ACTIVATIONS[activation](x @ part["down.weight"].T + part["down.bias"])
        return x + inside @ part["up.weight"].T + part["up.bias"]

    return bottleneck


def causal(length: int) -> torch.Tensor:
    """Added to the scores of attention, (1, 1, length, length)."""
    return torch.full((1, 1, length, length), -torch.inf).triu(1)


@torch.no_grad()
def llama_by_hand(
    model: Any, weights: Weights, tokens: torch.Tensor, activation: str = "relu"
) -> torch.Tensor:
    """Logits of a Llama without adapters, a sublayer at a time, `weights` in between."""
    inner = model.model
    x = inner.embed_tokens(tokens)
    rope = inner.rotary_emb(x, torch.arange(tokens.shape[1])[None])
    for i, layer in enumerate(inner.layers):
        path = f"model.layers.{i}"
        attention = layer.self_attn(
            hidden_states=layer.input_layernorm(x),
            position_embeddings=rope,
            attention_mask=causal(tokens.shape[1]),
        )[0]
        x = x + by_hand(weights, f"{path}.self_attn", activation)(attention)
        mlp = layer.mlp(layer.post_attention_layernorm(x))
        x = x + by_hand(weights, f"{path}.mlp", activation)(mlp)
    return model.lm_head(inner.norm(x))  # type: ignore[no-any-return]


@torch.no_grad()
def gpt2_by_hand(
    model: Any, weights: Weights, tokens: torch.Tensor, activation: str = "relu"
) -> torch.Tensor:
    """As `llama_by_hand`, of a GPT-2."""
    inner = model.transformer
    x = inner.wte(tokens) + inner.wpe(torch.arange(tokens.shape[1]))
    for i, block in enumerate(inner.h):
        path = f"transformer.h.{i}"
        attention = block.attn(block.ln_1(x), attention_mask=causal(tokens.shape[1]))[0]
        x = x + by_hand(weights, f"{path}.attn", activation)(attention)
        x = x + by_hand(weights, f"{path}.mlp", activation)(block.mlp(block.ln_2(x)))
    return model.lm_head(inner.ln_f(x))  # type: ignore[no-any-return]
