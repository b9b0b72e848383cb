"""Which models the fast path computes: the Llama family, read from a base's config.json.

Llama, SmolLM, Mistral, Qwen2 and Qwen3 are one network with small differences; this names the
differences. Knows nothing of weights.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FAMILY = ("llama", "mistral", "qwen2", "qwen3")
ROPE = ("default", "linear", "llama3")


@dataclass(frozen=True, slots=True)
class Rope:
    """Rotary position embeddings; `scaling` holds what its `kind` asks for."""

    kind: str
    theta: float
    scaling: dict[str, float]


@dataclass(frozen=True, slots=True)
class Shape:
    """The network's sizes and switches. `context` counts tokens."""

    layers: int
    hidden: int
    intermediate: int
    heads: int
    kv_heads: int
    head_dim: int
    vocabulary: int
    context: int
    epsilon: float
    rope: Rope
    qkv_bias: bool
    o_bias: bool
    mlp_bias: bool
    qk_norm: bool
    tied: bool

    @property
    def q_width(self) -> int:
        return self.heads * self.head_dim

    @property
    def kv_width(self) -> int:
        return self.kv_heads * self.head_dim

    @property
    def qkv_width(self) -> int:
        return self.q_width + 2 * self.kv_width


def read_shape(base: Path) -> Shape | None:
    """The shape of the base in a folder; None where the fast path does not compute its like."""
    try:
        config = json.loads((base / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        # The general path says what is wrong with the file.
        return None
    if not isinstance(config, dict) or config.get("model_type") not in FAMILY:
        return None
    rope = _rope(config)
    if rope is None or _slides(config) or config.get("quantization_config"):
        return None
    if config.get("hidden_act", "silu") != "silu":
        return None
    try:
        return _shape(config, rope)
    except (KeyError, TypeError, ValueError, ZeroDivisionError):
        return None


def _shape(config: dict[str, Any], rope: Rope) -> Shape:
    family = config["model_type"]
    heads = int(config["num_attention_heads"])
    attention_bias = bool(config.get("attention_bias")) and family in ("llama", "qwen3")
    return Shape(
        layers=int(config["num_hidden_layers"]),
        hidden=int(config["hidden_size"]),
        intermediate=int(config["intermediate_size"]),
        heads=heads,
        kv_heads=int(config.get("num_key_value_heads") or heads),
        head_dim=int(config.get("head_dim") or config["hidden_size"] // heads),
        vocabulary=int(config["vocab_size"]),
        context=int(config["max_position_embeddings"]),
        epsilon=float(config.get("rms_norm_eps", 1e-6)),
        rope=rope,
        qkv_bias=attention_bias or family == "qwen2",
        o_bias=attention_bias,
        mlp_bias=bool(config.get("mlp_bias")) and family == "llama",
        qk_norm=family == "qwen3",
        tied=bool(config.get("tie_word_embeddings", False)),
    )


def _rope(config: dict[str, Any]) -> Rope | None:
    """Newer configs say `rope_parameters`, older ones `rope_theta` and `rope_scaling`."""
    told = config.get("rope_parameters") or config.get("rope_scaling") or {}
    kind = told.get("rope_type", told.get("type", "default"))
    if kind not in ROPE or told.get("partial_rotary_factor", 1.0) != 1.0:
        return None
    theta = told.get("rope_theta", config.get("rope_theta", 10000.0))
    numbers = {name: float(told[name]) for name in told if isinstance(told[name], int | float)}
    return Rope(kind, float(theta), numbers)


def _slides(config: dict[str, Any]) -> bool:
    """Whether a layer attends to a window that is shorter than the context."""
    if config["model_type"] == "mistral":
        window = config.get("sliding_window")
        return window is not None and window < config.get("max_position_embeddings", 0)
    return bool(config.get("use_sliding_window"))
