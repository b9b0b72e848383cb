"""Learning, objective by objective, on what was held out: docs/campaigns/learning.json.

    make test-learning

TRIMTAB_DATA names a folder of public data (`hh_rlhf` in it); what needs it is left out without it.
A piece of the campaign can be run alone, by its name; the file keeps the others.
"""

import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.machine import head

from tests.campaigns import FOLDER, record
from tests.learning import judged, layout, preference, rivals, verifiable

NAME = "learning"
Piece = Callable[[Path], dict[str, Any]]
PIECES: dict[str, Piece] = {
    "sft": layout.run,
    "dpo": preference.dpo,
    "reward": preference.reward,
    "kto": judged.kto,
    "orpo": judged.orpo,
    "grpo": verifiable.grpo,
    "rloo": verifiable.rloo,
    "rivals": rivals.run,
}
NEED_DATA = ("dpo", "reward")


def main(asked: list[str]) -> int:
    import torch

    from trimtab.train.model import quiet

    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "0")) or os.cpu_count() or 1)
    for name in asked or list(PIECES):
        if name in NEED_DATA and preference.folder() is None:
            print(f"{name}: left out: TRIMTAB_DATA names no folder with hh_rlhf", flush=True)
            continue
        started = time.perf_counter()
        with tempfile.TemporaryDirectory() as folder, quiet():
            found = PIECES[name](Path(folder))
        found |= {"seconds": round(time.perf_counter() - started, 1), "commit": head()["commit"]}
        print(f"{name}: {json.dumps(found)}", flush=True)
        keep(name, found)
    return 0


def keep(name: str, found: dict[str, Any]) -> None:
    """Write a piece beside those that were run before. `learnt` says whether it passed."""
    file = FOLDER / f"{NAME}.json"
    pieces = json.loads(file.read_text())["figures"] if file.exists() else {}
    pieces[name] = found
    failed = sum(not piece["learnt"] for piece in pieces.values())
    record(NAME, failed, {"pieces": len(pieces)}, figures=pieces)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
