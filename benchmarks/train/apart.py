"""A peer beside us: an environment and a process of its own, over our build of torch.

It is given our tokens and labels, and set as TRL is tuned: a record at a time, nothing computed
twice, freed memory kept.
"""

import json
import os
import subprocess
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.machine import ROOT
from benchmarks.serve import peers
from benchmarks.train.material import Material
from benchmarks.train.trained import Trained, adapted

FACES = ROOT / "benchmarks" / "train" / "faces"
# The whole job, started to saved: several times what it takes.
PATIENCE_S = 900


def trained(
    peer: peers.Peer, face: str, found: Material, folder: Path, arguments: dict[str, Any]
) -> Trained:
    """What a face, a script for the peer's own interpreter, made of the records and `arguments`.

    Raises Absent where the environment cannot be made, or it ends before its training does.
    """
    from trimtab.train.speed import KEPT

    request = folder / "request.json"
    rows = [asdict(row) for row in found.rows(found.taught)]
    request.write_text(json.dumps({"rows": rows, "arguments": arguments}))
    done = subprocess.run(
        [str(peers.python_of(peer)), str(FACES / face), str(request)],
        # Without our sources, which another version of a library would meet.
        env={key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
        | {
            "MALLOC_MMAP_THRESHOLD_": str(KEPT),
            "MALLOC_TRIM_THRESHOLD_": str(KEPT),
            "HF_HUB_OFFLINE": "1",
        },
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
    )
    if done.returncode:
        raise peers.Absent(done.stderr.strip().rpartition("\n")[2])
    told = json.loads((folder / "told.json").read_text())
    adapter = Path(told["adapter"])
    return Trained(
        lambda: adapted(found, adapter), told["seconds"], told["losses"], told["peak_mb"]
    )
