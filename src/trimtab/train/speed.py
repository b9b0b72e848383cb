"""What this machine computes with, and how fast. The planner is told; it measures nothing."""

import ctypes
import importlib.util
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

# Rows, inner size and columns of a probe, by device. On a CPU what a batch of eight short dialogues
# asks of a 135M model; on a card what fills it, as batches are made to.
PROBES = {"cpu": (512, 576, 1536), "cuda": (8192, 4096, 4096)}
# malloc.h
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
KEPT = 1 << 30


@dataclass(frozen=True, slots=True)
class Device:
    """Where training runs: `name` as torch knows it, and the dtype the machine does natively.

    `memory` is the accelerator's own, in bytes, 0 on a CPU; `count` how many such there are.
    `platform` is what XLA compiles for, CPU or TPU, empty where it does not.
    """

    name: str
    dtype: str
    memory: int = 0
    count: int = 1
    platform: str = ""

    @property
    def label(self) -> str:
        return f"{self.name}:{self.platform}" if self.platform else self.name


def device() -> Device:
    """XLA's device in an environment that has it and names a platform (PJRT_DEVICE); else the first
    CUDA device with bfloat16, else the CPU with the widest dtype it does natively.
    """
    import torch

    platform = os.environ.get("PJRT_DEVICE", "")
    if platform and importlib.util.find_spec("torch_xla") is not None:
        return Device("xla", "bfloat16" if platform == "TPU" else "float32", platform=platform)
    if torch.cuda.is_available():
        native = torch.cuda.is_bf16_supported(including_emulation=False)
        dtype = "bfloat16" if native else "float32"
        memory = torch.cuda.get_device_properties(0).total_memory
        return Device("cuda", dtype, memory, torch.cuda.device_count())
    native = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return Device("cpu", "bfloat16" if native else "float32")


def gemm_rate(machine: Device, seconds: float = 0.3) -> float:
    """Floating-point operations a second of a matrix product, the best of those that fit the time.

    The best, not the mean: other processes can only slow a product down.
    """
    import torch

    dtype = getattr(torch, machine.dtype)
    rows, inner, columns = PROBES[machine.name]
    left = torch.randn(rows, inner, dtype=dtype, device=machine.name)
    right = torch.randn(inner, columns, dtype=dtype, device=machine.name)
    best = float("inf")
    started = time.perf_counter()
    while time.perf_counter() - started < seconds:
        before = time.perf_counter()
        left @ right
        if machine.name != "cpu":
            torch.cuda.synchronize()
        best = min(best, time.perf_counter() - before)
    return 2 * rows * inner * columns / best


@contextmanager
def kept_memory() -> Iterator[None]:
    """Let glibc's allocator keep what is freed; at the end what nobody uses goes back.

    A step frees and asks again for tensors of megabytes. By default each is mapped anew, and the
    kernel clears its pages anew (mallopt(3), malloc_trim(3)). The thresholds stay as they are set.
    Elsewhere than under glibc this does nothing.
    """
    library = ctypes.CDLL(None)
    if not hasattr(library, "mallopt"):
        yield
        return
    library.mallopt(M_MMAP_THRESHOLD, KEPT)
    library.mallopt(M_TRIM_THRESHOLD, KEPT)
    try:
        yield
    finally:
        library.malloc_trim(0)
