"""The arithmetic of a step, twice: in plain torch, and in C++ for what torch does badly on a CPU.

The two give the same results to rounding; a test holds the one against the other.
"""

import torch

from trimtab.engine.family import Shape
from trimtab.engine.ops.build import library
from trimtab.engine.ops.native_ops import NativeOps, fits
from trimtab.engine.ops.torch_ops import TorchOps

__all__ = ["NativeOps", "TorchOps", "pick_ops"]


def pick_ops(shape: Shape, dtype: torch.dtype, device: torch.device) -> TorchOps:
    """The faster of the two that works here."""
    if fits(shape, dtype, device) and (path := library()) is not None:
        return NativeOps(path, dtype)
    return TorchOps(dtype, device)
