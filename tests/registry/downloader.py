"""Downloads a file and is killed in the middle of it."""

import os
import signal
import sys
from pathlib import Path

from trimtab.registry.download import fetch

ENOUGH = 1_000_000


def stop_in_the_middle(there: int, total: int | None) -> None:
    if there > ENOUGH:
        os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    print("ready", flush=True)
    fetch(sys.argv[1], Path(sys.argv[2]), sys.argv[3], on_progress=stop_in_the_middle)
