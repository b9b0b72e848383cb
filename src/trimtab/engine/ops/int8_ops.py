"""Projections of bytes by bytes, for processors that multiply those four at a time (VNNI).

Weights get a scale for each output, activations one for each token at each projection; sums are
exact, in 32-bit integers. Adapters, attention and norms stay as they are. Half the bytes of
bfloat16, and up to twice its speed; what it costs in quality depends on the model, so `check` must
have passed before anything is answered (`engine/continuous/quality.py`).
"""

from pathlib import Path

import torch

from trimtab.engine.llama.linear import Linear, quantised
from trimtab.engine.ops.native_ops import NativeOps
from trimtab.engine.processor import VNNI, cpu_flags


class Int8Ops(NativeOps):
    """The native kernels, with projections in bytes."""

    name = "int8"

    def __init__(self, path: Path, dtype: torch.dtype, level: str | None = None) -> None:
        super().__init__(path, dtype, level)
        # Without VNNI oneDNN adds pairs of products in 16 bits: half the range never overflows.
        self._levels = 127 if VNNI & cpu_flags() else 63

    def arrange(self, weight: torch.Tensor) -> Linear:
        return quantised(weight)

    def linear(self, x: torch.Tensor, linear: Linear) -> torch.Tensor:
        if linear.bytes is None or not len(x):
            return super().linear(x, linear)
        scales = x.float().abs().amax(dim=1, keepdim=True).clamp(min=1e-30) / self._levels
        bytes_ = (x.float() / scales).round_().add_(self._levels).to(torch.uint8)
        product: torch.Tensor = torch.ops.onednn.qlinear_pointwise(
            bytes_,
            1.0,
            self._levels,
            linear.bytes.packed,
            linear.bytes.scales,
            linear.bytes.zeros,
            None,
            1.0,
            0,
            torch.float32,
            "none",
            [],
            "",
        )
        return product.mul_(scales).to(x.dtype)
