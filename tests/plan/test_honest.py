"""What the plan foretells, held against a run of a base large enough to be felt."""

import json
import subprocess
import sys
from pathlib import Path

from tests.tiny import build_base
from trimtab.plan.cost import training_cost
from trimtab.plan.machine import Machine
from trimtab.plan.memory import training_memory
from trimtab.plan.shape import read_shape
from trimtab.plan.work import Work

# Stated to users: memory within a factor of 1.5, time within 3 on a machine that others use too.
MEMORY_FACTOR, TIME_FACTOR = 1.5, 3.0


def test_memory_and_time_are_within_the_stated_factors(tmp_path: Path) -> None:
    base = build_base(tmp_path / "base", layers=8, hidden=512, heads=8, kv_heads=4, spread=0.02)
    told = subprocess.run(
        [sys.executable, "-m", "tests.plan.measured", str(base), str(tmp_path / "run")],
        capture_output=True,
        text=True,
        timeout=400,
        check=True,
    )
    found = json.loads(told.stdout)
    work = Work(**found["work"])
    shape = read_shape(base)
    machine = Machine("here", "cpu", found["dtype"], 1, 2**34, found["rate"])
    memory = training_memory(shape, work, "lora", found["dtype"]).total
    seconds = training_cost(shape, work, "lora", machine).training_s
    assert found["peak"] / MEMORY_FACTOR < memory < found["peak"] * MEMORY_FACTOR
    assert found["seconds"] / TIME_FACTOR < seconds < found["seconds"] * TIME_FACTOR
