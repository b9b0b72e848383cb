"""Compiled parts that libraries build when they are first used, and the locks of builds that died.

torch builds an extension under a lock file and, where there is one, waits for its end: for ever,
without a word, where whoever built was killed. The builder holds the file open, which tells a
living build from a dead one.
"""

import os
from pathlib import Path


def folder() -> Path:
    """Where torch builds extensions (torch.utils.cpp_extension)."""
    named = os.environ.get("TORCH_EXTENSIONS_DIR")
    return Path(named) if named else Path("~/.cache/torch_extensions").expanduser()


def clear_dead_locks(root: Path) -> list[Path]:
    """Delete the locks under `root` that no process holds open; the ones that were deleted."""
    found = [lock for lock in root.rglob("lock") if lock.is_file()]
    held = _open_files() if found else set()
    dead = [lock for lock in found if str(lock.resolve()) not in held]
    for lock in dead:
        lock.unlink(missing_ok=True)
    return dead


def _open_files() -> set[str]:
    """Files that processes of this user hold open."""
    held = set()
    for handle in Path("/proc").glob("[0-9]*/fd/*"):
        try:
            held.add(os.readlink(handle))
        except OSError:
            # It was closed, its process ended, or it is somebody else's.
            continue
    return held
