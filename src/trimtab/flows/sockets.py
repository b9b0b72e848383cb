"""Where the engine of a base listens."""

import hashlib
import os
import tempfile
from pathlib import Path

from trimtab.canonical import short
from trimtab.store.home import Home

# sockaddr_un.sun_path holds 108 bytes on Linux, the closing zero included.
LONGEST = 107


def engine_socket(home: Home, base: str, owner: str = "serve") -> Path:
    """The Unix socket of a base's engine: in the home, or in a private short folder.

    `owner` tells the engine that `serve` keeps from one that a single run started for itself.
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
