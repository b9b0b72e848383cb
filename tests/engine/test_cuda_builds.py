"""What Triton makes of the GPU's kernels, for cards that need not be here."""

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.engine.cards import SHARED

pytestmark = pytest.mark.skipif(find_spec("triton") is None, reason="Triton is not installed")


def told(asked: str, folder: Path) -> dict[str, int]:
    environment = {**os.environ, "TRITON_INTERPRET": "0", "TRITON_CACHE_DIR": str(folder)}
    command = [sys.executable, "-m", "tests.engine.cards", asked]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    found: dict[str, int] = json.loads(done.stdout)
    return found


def test_a_servers_life_builds_each_kernel_once_or_twice(tmp_path: Path) -> None:
    """With and without a sum before it, for tiles of answers and of prompts: no number that differs
    from step to step, layer to layer or adapter to adapter makes Triton build one anew.
    """
    twice = dict.fromkeys(("_norm", "_attend", "_narrow", "_widen"), 2)
    assert told("variants", tmp_path) == {**twice, "_rotate": 1, "_gate": 1}


@pytest.mark.parametrize("capability", SHARED)
def test_the_largest_tiles_fit_what_a_card_shares(capability: int, tmp_path: Path) -> None:
    """In the numbers that it computes in; a head that would not fit is left to plain torch."""
    for kernel, size in told(f"sm_{capability}", tmp_path).items():
        assert size <= SHARED[capability], kernel
