"""What every benchmark file says of the machine, the code and the day."""

import os
import platform
import shutil
import subprocess
from datetime import date
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent


def head() -> dict[str, Any]:
    """`machine`, `date` and `commit`: the head of a file under docs/benchmarks."""
    return {
        "machine": {
            "cpu": _cpu(),
            "cores": len(os.sched_getaffinity(0)),
            "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9),
            "python": platform.python_version(),
        },
        "date": date.today().isoformat(),
        "commit": _git("rev-parse", "--short", "HEAD"),
    }


def _cpu() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _git(*arguments: str) -> str:
    if shutil.which("git") is None:
        return ""
    command = ["git", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True).stdout.strip()
