"""What this machine could do at most: multiplications, and bytes read from memory."""

import statistics
import time
from collections.abc import Callable

import torch


def limits() -> dict[str, float]:
    """`gemm_gflop_s` of a square of 1024, `read_gb_s` of half a gigabyte, medians of several."""
    a, b = torch.randn(1024, 1024), torch.randn(1024, 1024)
    much = torch.zeros(2**27)
    return {
        "gemm_gflop_s": 2 * 1024**3 / median_s(lambda: a @ b, 15) / 1e9,
        "read_gb_s": much.nbytes / median_s(much.sum, 7) / 1e9,
    }


def gpu_limits() -> dict[str, float]:
    """The same of a GPU, in bfloat16: a square of 8192, and two gigabytes read."""
    a, b = (torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    much = torch.randn(2**29, device="cuda")

    def waited(work: Callable[[], object]) -> Callable[[], object]:
        def done() -> None:
            work()
            torch.cuda.synchronize()

        return done

    return {
        "gemm_gflop_s": 2 * 8192**3 / median_s(waited(lambda: a @ b), 15) / 1e9,
        "read_gb_s": much.nbytes / median_s(waited(much.sum), 15) / 1e9,
    }


def median_s(work: Callable[[], object], repeat: int) -> float:
    work()
    taken = []
    for _ in range(repeat):
        began = time.perf_counter()
        work()
        taken.append(time.perf_counter() - began)
    return statistics.median(taken)
