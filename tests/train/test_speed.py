import ctypes
import os
from pathlib import Path

import pytest

from trimtab.train.speed import kept_memory

MEGABYTES = 64


def resident() -> int:
    """Megabytes of this process in memory."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") // 2**20


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="not under glibc")
def test_what_a_step_frees_is_kept_until_the_run_ends() -> None:
    with kept_memory():
        before = resident()
        block = bytearray(b"1") * (MEGABYTES << 20)
        assert len(block) == MEGABYTES << 20
        del block
        kept = resident() - before
    assert kept > MEGABYTES / 2
    assert resident() - before < MEGABYTES / 2
