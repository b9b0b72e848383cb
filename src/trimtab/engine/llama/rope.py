"""Rotary position embeddings (Su et al., 2021, RoFormer), as the Llama family scales them."""

import math

import torch

from trimtab.engine.llama.family import Rope


def frequencies(rope: Rope, head_dim: int) -> torch.Tensor:
    """Radians a position, (head_dim / 2,), in float32."""
    exponents = torch.arange(0, head_dim, 2, dtype=torch.int64).float() / head_dim
    plain = 1.0 / rope.theta**exponents
    if rope.kind == "linear":
        return plain / rope.scaling["factor"]
    if rope.kind == "llama3":
        return _llama3(plain, rope.scaling)
    return plain


def _llama3(plain: torch.Tensor, scaling: dict[str, float]) -> torch.Tensor:
    """Llama 3.1: long wavelengths are stretched, short ones kept, those between interpolated."""
    factor = scaling["factor"]
    low, high = scaling["low_freq_factor"], scaling["high_freq_factor"]
    trained = scaling["original_max_position_embeddings"]
    wavelength = 2 * math.pi / plain
    share = ((trained / wavelength - low) / (high - low)).clamp(0, 1)
    return (1 - share) * plain / factor + share * plain


def rotations(positions: torch.Tensor, radians: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Cosines and sines, each (tokens, head_dim / 2), in float32."""
    angles = positions.float().unsqueeze(1) * radians
    return angles.cos(), angles.sin()
