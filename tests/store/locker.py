"""Holds a lock until it is killed."""

import sys
import time
from pathlib import Path

from trimtab.store.home import Home


def main(root: str, name: str) -> None:
    with Home(Path(root)).lock(name):
        print("ready", flush=True)
        time.sleep(600)


if __name__ == "__main__":
    main(*sys.argv[1:])
