"""Compiles the kernels, once for a machine: at the first start of an engine, never inside pip.

The library lies in the user's cache under a hash of everything that its bytes depend on. Where
there is no compiler, or it fails, there is no library, and one line in the log says so. It holds
the kernels once for each level of a processor's abilities, and which of them compute is decided
where it is loaded: a cache or an image that machines share serves them all.
"""

import fcntl
import hashlib
import logging
import os
import platform
import shutil
import subprocess
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch

from trimtab.store.user_cache import user_cache

SOURCE = Path(__file__).with_name("kernels") / "kernels.cpp"
LEVELS = {
    "x86_64": {
        "sse4": ("-msse4.2",),
        # The generic tuning is a tenth slower at attention where it was measured, on Zen 1.
        "avx2": ("-mavx2", "-mfma", "-mtune=znver1"),
        "avx512": ("-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl", "-mfma"),
    },
}
"""By architecture the compiler's flags for each level, the lowest first; each contains those before
it. kernels/levels.cpp knows what each asks of a processor. What multiplies in 8 bits or in bfloat16
is oneDNN, which looks at the processor itself.
"""
BASE: dict[str, tuple[str, ...]] = {"base": ()}
"""Other architectures have one level, what their compiler takes for granted."""
COMPILERS = ("c++", "g++", "clang++")
FLAGS = ("-std=gnu++17", "-O3", "-fno-math-errno", "-fopenmp", "-fPIC", "-Wno-psabi")
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


def levels() -> dict[str, tuple[str, ...]]:
    """What is compiled for this architecture, as LEVELS."""
    return LEVELS.get(platform.machine(), BASE)


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
                _compile(compiler, Path(scratch)).replace(path)
    return path


def _compile(compiler: str, scratch: Path) -> Path:
    """All levels side by side, then one library of them."""
    # The lowest level stands first: of inline functions that several have, the linker keeps the
    # first, and all must be able to run it.
    objects = [scratch / f"{level}.o" for level in levels()]
    commands = [
        [compiler, *FLAGS, *flags, f"-DLEVEL={level}", "-c", "-o", str(made), str(SOURCE)]
        for made, (level, flags) in zip(objects, levels().items(), strict=True)
    ]
    with ThreadPoolExecutor() as pool:
        list(pool.map(_run, commands))
    made = scratch / "kernels.so"
    choice = SOURCE.with_name("levels.cpp")
    _run([compiler, *FLAGS, "-shared", "-o", str(made), str(choice), *map(str, objects)])
    return made


def _run(command: list[str]) -> str:
    return subprocess.run(
        command, check=True, capture_output=True, text=True, timeout=TIMEOUT_S
    ).stdout


def _key(compiler: str) -> str:
    files = sorted(path for path in SOURCE.parent.iterdir() if path.suffix in (".cpp", ".h"))
    source = [path.read_text(encoding="utf-8") for path in files]
    told = _run([compiler, "--version"])
    parts = (*source, torch.__version__, told, *FLAGS, platform.machine(), str(levels()))
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:32]
