"""The trainer beside plain TRL, into docs/benchmarks/train.json and a page.

    make bench-train

Each cell is a process of its own, systems in turns, forked from one that has imported the
libraries and computed nothing. What is the same in every round is measured in the first.
TRIMTAB_BENCH_ROUNDS, SYSTEMS and CASES (lists with commas) and OUT shorten it.
"""

import json
import multiprocessing
import os
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.machine import head
from benchmarks.train import page
from benchmarks.train.material import CASES, STEPS
from benchmarks.train.measure import SYSTEMS, cell, product_rate

ROUNDS = int(os.environ.get("TRIMTAB_BENCH_ROUNDS", "3"))
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
FORKS = multiprocessing.get_context("forkserver")
# What the systems import, the lazy parts of libraries too.
FORKS.set_forkserver_preload(
    [
        "torch._dynamo",
        "bitsandbytes",
        "trl.trainer.sft_trainer",
        "trl.trainer.dpo_trainer",
        "trimtab.train.display",
        "trimtab.train.objectives.dpo",
        "trimtab.train.objectives.sft",
        "benchmarks.train.limit",
        "benchmarks.train.measure",
    ]
)


def main() -> None:
    started = time.monotonic()
    # In a process of its own, that this one stays light.
    with ProcessPoolExecutor(1, mp_context=FORKS) as process:
        rate = process.submit(product_rate).result()
    values: dict[Cell, list[float]] = {}
    # A round of every case before the next: a run that is cut short leaves whole cases.
    for number in range(1, ROUNDS + 1):
        for case in WANTED:
            for system in NAMES:
                for figure, value in _measured(system, case, whole=number == 1).items():
                    values.setdefault((system, case, figure), []).append(value)
            found = {
                **head(),
                "rounds": number - (case != WANTED[-1]),
                "steps": {each: STEPS[each] for each in WANTED},
                "seconds": round(time.monotonic() - started),
                "limits": {"gemm_gflop_s": round(rate / 1e9, 1)},
                "rows": list(_rows(values)),
            }
            OUT.write_text(json.dumps(found, indent=1) + "\n")
    if page.FILE == OUT:
        page.main()


def _measured(system: str, case: str, *, whole: bool) -> dict[str, float]:
    try:
        with ProcessPoolExecutor(1, mp_context=FORKS) as process:
            told = process.submit(cell, system, case, whole=whole).result()
    except Exception as error:  # of another product; the page shows the cell empty
        print(f"{case} {system}: failed: {type(error).__name__}: {error}", flush=True)
        return {}
    print(f"{case} {system}: {told['tok_s']:.1f} tokens/s", flush=True)
    return told


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
