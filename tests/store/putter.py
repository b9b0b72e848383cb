"""Puts new blobs until it is killed."""

import os
import sys
from pathlib import Path

from trimtab.store.blobs import Blobs


def main(root: str) -> None:
    blobs = Blobs(Path(root))
    print("ready", flush=True)
    while True:
        blobs.put_bytes(os.urandom(300_000))


if __name__ == "__main__":
    main(sys.argv[1])
