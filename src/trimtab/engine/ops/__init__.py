"""The arithmetic of a step, three times: in plain torch, in C++ for what torch does badly on a CPU,
and in Triton for an NVIDIA GPU.

They give the same results to rounding; tests hold them against the first.
"""

import logging
from contextlib import suppress

import torch

from trimtab.engine.llama.family import Shape
from trimtab.engine.ops.build import library
from trimtab.engine.ops.native_ops import NativeOps, fits
from trimtab.engine.ops.torch_ops import TorchOps
from trimtab.errors import EngineError

__all__ = ["NativeOps", "TorchOps", "pick_ops"]

log = logging.getLogger(__name__)


def pick_ops(shape: Shape, dtype: torch.dtype, device: torch.device) -> TorchOps:
    """The fastest of them that works here."""
    if device.type == "cuda" and (made := _cuda_ops(shape, dtype, device)) is not None:
        return made
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


def _cuda_ops(shape: Shape, dtype: torch.dtype, device: torch.device) -> TorchOps | None:
    """None where the kernels do not compute such a network, or cannot be built."""
    try:
        from trimtab.engine.ops.cuda.cuda_ops import CudaOps, takes, try_out

        if not takes(shape, dtype):
            return None
        try_out(dtype, device)
    except torch.OutOfMemoryError:  # which says nothing of the kernels
        raise
    except Exception as error:  # no Triton, no C compiler for its launcher, a card it does not know
        log.warning("no kernels in Triton here, torch's own compute the same, slower: %s", error)
        return None
    return CudaOps(shape, dtype, device)
