"""The arithmetic of a step, twice: in plain torch, and in C++ for what torch does badly on a CPU.

The two give the same results to rounding; a test holds the one against the other.
"""

import logging
from contextlib import suppress

import torch

from trimtab.engine.family import Shape
from trimtab.engine.ops.build import library
from trimtab.engine.ops.native_ops import NativeOps, fits
from trimtab.engine.ops.torch_ops import TorchOps
from trimtab.errors import EngineError

__all__ = ["NativeOps", "TorchOps", "pick_ops"]

log = logging.getLogger(__name__)


def pick_ops(shape: Shape, dtype: torch.dtype, device: torch.device) -> TorchOps:
    """The faster of the two that works here."""
    if fits(shape, dtype, device) and (path := library()) is not None:
        try:
            return NativeOps(path, dtype)
        except OSError as error:
            # A file that was cut short would stay so: the next start compiles it again.
            with suppress(OSError):
                path.unlink()
            log.warning("the kernels do not load, the engine computes in torch alone: %s", error)
        except EngineError as error:
            log.warning("the engine computes in torch alone: %s", error)
    return TorchOps(dtype, device)
