import ctypes
import subprocess
import sys

import pytest

# In a process of its own: one that has freed much before takes the block from that.
PROBE = """
import os
from pathlib import Path
from trimtab.train.speed import kept_memory

def resident():
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") // 2**20

with kept_memory():
    before = resident()
    block = bytearray(b"1") * (64 << 20)
    held = resident() - before
    del block
    kept = resident() - before
print(held, kept, resident() - before)
"""


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="not under glibc")
def test_what_a_step_frees_is_kept_until_the_run_ends() -> None:
    said = subprocess.run([sys.executable, "-c", PROBE], capture_output=True, text=True, check=True)
    held, kept, left = map(int, said.stdout.split())
    assert held >= kept >= 60
    assert left < 4
