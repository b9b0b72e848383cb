"""The trainer beside plain TRL, into docs/benchmarks/train.json and a page.

    make bench-train

Each cell is a process of its own, systems in turns. TRIMTAB_BENCH_ROUNDS, SYSTEMS and CASES (lists
with commas) and OUT shorten it.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.machine import ROOT, head
from benchmarks.train import page
from benchmarks.train.material import CASES, STEPS
from benchmarks.train.measure import SYSTEMS
from trimtab.train.speed import device, gemm_rate

ROUNDS = int(os.environ.get("TRIMTAB_BENCH_ROUNDS", "1"))
NAMES = os.environ.get("TRIMTAB_BENCH_SYSTEMS", ",".join(SYSTEMS)).split(",")
WANTED = os.environ.get("TRIMTAB_BENCH_CASES", ",".join(CASES)).split(",")
OUT = Path(os.environ.get("TRIMTAB_BENCH_OUT", page.FILE))
UNITS = {
    "tok_s": "tokens/s",
    "peak_mb": "MB",
    "final_loss": "nats/token",
    "share_of_limit": "share",
    "tokens": "tokens",
}
Cell = tuple[str, str, str]


def main() -> None:
    started = time.monotonic()
    rate = gemm_rate(device())
    values: dict[Cell, list[float]] = {}
    # A round of every case before the next: a run that is cut short leaves whole cases.
    for number in range(1, ROUNDS + 1):
        for case in WANTED:
            for system in NAMES:
                for figure, value in _measured(system, case).items():
                    values.setdefault((system, case, figure), []).append(value)
            found = {
                **head(),
                "rounds": number,
                "steps": {each: STEPS[each] for each in WANTED},
                "seconds": round(time.monotonic() - started),
                "limits": {"gemm_gflop_s": round(rate / 1e9, 1)},
                "rows": list(_rows(values)),
            }
            OUT.write_text(json.dumps(found, indent=1) + "\n")
    if page.FILE == OUT:
        page.main()


def _measured(system: str, case: str) -> dict[str, float]:
    command = [sys.executable, "-m", "benchmarks.train.measure", system, case]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode != 0:
        # Its reason is on the terminal; the page shows the cell empty.
        print(f"{case} {system}: failed", flush=True)
        return {}
    told: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    print(f"{case} {system}: {told['tok_s']:.1f} tokens/s", flush=True)
    return {figure: value for figure, value in told.items() if figure in UNITS}


def _rows(values: dict[Cell, list[float]]) -> Iterator[dict[str, Any]]:
    for (system, case, figure), each in values.items():
        yield {
            "system": system,
            "case": case,
            "figure": figure,
            "value": round(median(each), 4),
            "unit": UNITS[figure],
            "repetitions": [round(value, 4) for value in each],
            "precision": "float32",
        }


if __name__ == "__main__":
    main()
