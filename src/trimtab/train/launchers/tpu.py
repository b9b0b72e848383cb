"""TPU: what a machine would need, and why no run is started on one.

torch_xla is torch's way to a TPU; its newest release, 2.9, is built for torch 2.9, and Trimtab
stands on torch 2.13. JAX is the other way, with a model, optimizer and checkpoints of its own: a
second trainer, whose equality with this one could not be shown without a TPU. So a TPU is refused
with what is missing, and never fallen back from without a word. Knows no torch.
"""

import importlib.util
from importlib import metadata
from pathlib import Path

from trimtab.train.launchers.refusal import Refusal

DEVICES = ("/dev/accel0", "/dev/vfio/0")


def refusal() -> Refusal:
    """Why there is no run on a TPU here: the first thing that is missing."""
    if not any(Path(device).exists() for device in DEVICES):
        return Refusal("this machine has no TPU", "set train.launcher.kind to local or torchrun")
    if importlib.util.find_spec("torch_xla") is None:
        return Refusal(
            f"torch_xla is not installed, and its newest release, 2.9, needs torch 2.9, not "
            f"{metadata.version('torch')}",
            "set train.launcher.kind to local; docs/guides/distributed.md tells more",
        )
    return Refusal(
        "no release of torch_xla goes with this torch",
        "set train.launcher.kind to local; docs/guides/distributed.md tells more",
    )
