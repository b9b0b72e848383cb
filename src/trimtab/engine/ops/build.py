"""Compiles the kernels, once for a machine: at the first start of an engine, never inside pip.

The library lies in the user's cache under a hash of everything that its bytes depend on. Where
there is no compiler, or it fails, there is no library, and one line in the log says so.
"""

import fcntl
import hashlib
import logging
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import torch

from trimtab.store.user_cache import user_cache

SOURCE = Path(__file__).with_name("kernels") / "kernels.cpp"
COMPILERS = ("c++", "g++", "clang++")
FLAGS = (
    "-std=gnu++17",
    "-O3",
    "-march=native",
    "-fno-math-errno",
    "-fopenmp",
    "-fPIC",
    "-shared",
)
TIMEOUT_S = 120

log = logging.getLogger(__name__)


def library() -> Path | None:
    """The compiled kernels; None where they cannot be compiled here."""
    compiler = _compiler()
    if compiler is None:
        log.warning("no C++ compiler: the engine computes in torch alone, which is slower")
        return None
    try:
        return _built(compiler, user_cache() / "kernels")
    except (OSError, subprocess.SubprocessError) as error:
        words = getattr(error, "stderr", None) or str(error)
        first = words.strip().splitlines()[0] if words.strip() else type(error).__name__
        log.warning("the kernels do not compile, the engine computes in torch alone: %s", first)
        return None


def _compiler() -> str | None:
    named = os.environ.get("CXX")
    return next(
        (path for name in (named, *COMPILERS) if name and (path := shutil.which(name))), None
    )


def _built(compiler: str, folder: Path) -> Path:
    """Compile into a temporary file and rename it, under a lock that dies with its holder."""
    path = folder / f"{_key(compiler)}.so"
    if path.exists():
        return path
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not path.exists():
            with tempfile.TemporaryDirectory(dir=folder) as scratch:
                made = Path(scratch) / "kernels.so"
                subprocess.run(
                    [compiler, *FLAGS, "-o", str(made), str(SOURCE)],
                    check=True,
                    capture_output=True,
                    text=True,
                    timeout=TIMEOUT_S,
                )
                made.replace(path)
    return path


def _key(compiler: str) -> str:
    version = subprocess.run(
        [compiler, "--version"], check=True, capture_output=True, text=True, timeout=TIMEOUT_S
    ).stdout
    files = sorted(path for path in SOURCE.parent.iterdir() if path.suffix in (".cpp", ".h"))
    source = [path.read_text(encoding="utf-8") for path in files]
    parts = (*source, torch.__version__, version, *FLAGS, _cpu())
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:32]


def _cpu() -> str:
    """What the compiler's `native` means here."""
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    told = [line for line in lines if line.startswith(("model name", "flags", "Features"))]
    return "\n".join(sorted(set(told)))
