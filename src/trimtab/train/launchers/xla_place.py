"""Where a run through XLA can be had: an interpreter that has torch_xla, and a device.

torch_xla's newest release, 2.9, goes with torch 2.9 alone, and Trimtab stands on a later one: it
needs an environment of its own. Knows no torch.
"""

import importlib.util
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

from trimtab.train.launchers.refusal import Refusal

INTERPRETER, PLATFORM = "TRIMTAB_XLA_PYTHON", "PJRT_DEVICE"
DEVICES = ("/dev/accel0", "/dev/vfio/0")
METHODS = ("lora", "full")
MORE = "docs/guides/distributed.md tells more"


def refusals(objective: str, method: str) -> Iterator[Refusal]:
    """Why there is no run through XLA here."""
    python = interpreter()
    if python is None:
        yield Refusal(
            "no interpreter with torch_xla: its newest release needs torch 2.9",
            f"make an environment of its own and name its python in {INTERPRETER}; {MORE}",
        )
    elif shutil.which(python) is None:
        yield Refusal(f"{INTERPRETER}: {python!r} is no program", f"name a python; {MORE}")
    if platform() == "TPU" and not any(Path(device).exists() for device in DEVICES):
        yield Refusal(
            "this machine has no TPU",
            f"{PLATFORM}=CPU tries the same path on XLA's CPU device, or set "
            "train.launcher.kind to local or torchrun",
        )
    if objective != "sft" or method not in METHODS:
        yield Refusal(
            f"{objective} by {method} was never run through XLA: sft by lora and full were",
            f"set train.launcher.kind to local; {MORE}",
        )


def interpreter() -> str | None:
    """The one that has torch_xla; None where none is named and this one has it not."""
    if named := os.environ.get(INTERPRETER):
        return named
    return None if importlib.util.find_spec("torch_xla") is None else sys.executable


def platform() -> str:
    return os.environ.get(PLATFORM, "TPU")
