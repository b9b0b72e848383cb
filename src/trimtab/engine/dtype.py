"""Where a model computes, and in which number format.

bfloat16 halves memory and time only where the hardware multiplies it natively; elsewhere it is
slower than float32 and less exact.
"""

from pathlib import Path

import torch

from trimtab.engine.processor import BF16, CPUINFO, cpu_flags


def pick_device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def pick_dtype(device: torch.device, cpuinfo: Path = CPUINFO) -> torch.dtype:
    """bfloat16 on a GPU from Ampere on and on a CPU with AVX512-BF16 or AMX, else float32."""
    if device.type == "cuda":
        native = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        native = bool(BF16 & cpu_flags(cpuinfo))
    return torch.bfloat16 if native else torch.float32


def dtype_name(dtype: torch.dtype) -> str:
    """`float32` for torch.float32."""
    return str(dtype).removeprefix("torch.")
