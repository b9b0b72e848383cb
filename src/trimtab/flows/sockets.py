"""Where the engine of a base listens."""

import fcntl
import hashlib
import os
import tempfile
from contextlib import suppress
from pathlib import Path

from trimtab.canonical import short
from trimtab.store.home import Home

# sockaddr_un.sun_path holds 108 bytes on Linux, the closing zero included.
LONGEST = 107
RUN = "run-"


def engine_socket(home: Home, base: str, owner: str = "serve") -> Path:
    """The Unix socket of a base's engine: in the home, or in a private short folder.

    `owner` tells the engine that `serve` keeps from those that single runs start.
    """
    path = home.sockets / f"{short(base)}-{owner}.sock"
    if len(os.fsencode(path)) <= LONGEST:
        return path
    key = hashlib.sha256(os.fsencode(home.root)).hexdigest()[:16]
    folder = Path(tempfile.gettempdir()) / f"trimtab-{os.getuid()}-{key}"
    folder.mkdir(mode=0o700, exist_ok=True)
    if folder.stat().st_uid != os.getuid():
        raise PermissionError(f"{folder} belongs to somebody else")
    return folder / path.name


def run_socket(home: Home, base: str, run: str) -> Path:
    """The socket of an engine that one run starts for itself; `run` is unlike all others."""
    return engine_socket(home, base, f"{RUN}{run}")


def discard_dead(folder: Path) -> None:
    """Remove what the engines of ended and killed runs left: the lock is free, so nobody serves."""
    for path in folder.glob(f"*-{RUN}*.sock.lock"):
        with suppress(FileNotFoundError, BlockingIOError), path.open() as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Another may have removed the file that was opened, and an engine made a new one.
            if not os.path.samestat(os.fstat(lock.fileno()), path.stat()):
                continue
            path.with_suffix("").unlink(missing_ok=True)
            path.unlink()
