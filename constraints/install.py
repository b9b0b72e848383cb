"""Install Trimtab with pinned constraints: `install.py CONSTRAINTS EXTRAS`.

Without an NVIDIA driver it sees to it that torch comes in its CPU build, which is a tenth of the
other's size. Uses nothing but the standard library: it runs before anything is installed.
"""

import json
import shutil
import subprocess
import sys
from pathlib import Path

CPU_WHEELS = "https://download.pytorch.org/whl/cpu"


def pip(*arguments: str, quiet: bool = False) -> str:
    """Run pip in this environment; returns what it printed when `quiet`."""
    command = [sys.executable, "-m", "pip", *arguments, "--disable-pip-version-check"]
    done = subprocess.run(
        command, check=False, stdout=subprocess.PIPE if quiet else None, text=True
    )
    if done.returncode:
        sys.exit(f"pip failed with exit code {done.returncode}; its own words are above")
    return done.stdout or ""


def torch_arguments(constraints: Path) -> list[str]:
    """Where to look for torch: nothing to add if the build found is fit for this machine."""
    if sys.platform != "linux" or shutil.which("nvidia-smi"):
        return []
    pin = next(line for line in constraints.read_text().splitlines() if line.startswith("torch=="))
    plan = pip(*("install", "--dry-run", "--no-deps", "--quiet", "--report", "-", pin), quiet=True)
    found = json.loads(plan)["install"]
    if not found or found[0]["metadata"]["version"].endswith("+cpu"):
        return []
    return ["--extra-index-url", CPU_WHEELS]


def main(constraints: str, extras: str) -> None:
    where = torch_arguments(Path(constraints))
    root = Path(__file__).resolve().parent.parent
    pip(
        "install",
        "-q",
        "--progress-bar",
        "on",
        "-c",
        constraints,
        *where,
        "-e",
        f"{root}[{extras}]",
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
