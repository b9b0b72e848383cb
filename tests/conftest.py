import gc
import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, settings

if "PYTEST_XDIST_WORKER" in os.environ:
    # Each worker has a core to itself; threads of several would only take turns on them.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
if not Path("/dev/nvidiactl").exists():
    # Triton, where it is installed, decides as it is imported whether it computes without a GPU.
    os.environ.setdefault("TRITON_INTERPRET", "1")

FIRST = (
    "tests/crash/",
    "tests/train/test_launchers.py",
    "tests/loop/",
    "tests/train/",
    "tests/flows/",
    "tests/plan/test_honest.py",
    "tests/engine/test_real_text.py",
    "tests/test_quickstart.py",
    "tests/gateway/test_fuzz.py",
)

pytest_plugins = ["tests.databases", "tests.disks", "tests.honesty"]

# The same examples every time, however slow the machine.
settings.register_profile("trimtab", deadline=None, derandomize=True)
settings.register_profile(
    "mutation",
    settings.get_profile("trimtab"),
    phases=[Phase.explicit, Phase.generate],
    # How fast examples are made says how busy the machine is, and nothing of a mutant.
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("trimtab")

# Until all is imported: each collection would walk over a million objects that stay.
gc.disable()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The tests that fork come first: a process that has computed in threads forks into one that
    waits for threads it does not have. Then the dear files, so that none is alone at the end.
    """
    items.sort(
        key=lambda item: next((i for i, f in enumerate(FIRST) if f in item.nodeid), len(FIRST))
    )


def pytest_collection_finish() -> None:
    """What was imported stays to the end: no collection has to walk over its million objects."""
    gc.collect()
    gc.freeze()
    gc.enable()
