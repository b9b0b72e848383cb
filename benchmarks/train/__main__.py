"""The trainer beside plain TRL and other peers, into docs/benchmarks/train.json and a page.

    make bench-train

Each cell is a process of its own, systems in turns, forked from one that has imported the
libraries and computed nothing. What is the same in every round is measured in the first.
TRIMTAB_BENCH_ROUNDS, SYSTEMS and CASES (lists with commas) and OUT shorten it: what is measured
takes the place of what the file held of that system and case, and the rest stays as it was. With
TRIMTAB_BENCH_MORE the rounds are added to the file's own. Every repetition names its commit.
"""

import json
import multiprocessing
import os
import time
from concurrent.futures import ProcessPoolExecutor
from itertools import product
from pathlib import Path

from benchmarks.machine import head
from benchmarks.train import page, rows
from benchmarks.train.material import CASES, STEPS
from benchmarks.train.measure import SYSTEMS, cell, product_rate

ROUNDS = int(os.environ.get("TRIMTAB_BENCH_ROUNDS", "3"))
NAMES = os.environ.get("TRIMTAB_BENCH_SYSTEMS", ",".join(SYSTEMS)).split(",")
WANTED = os.environ.get("TRIMTAB_BENCH_CASES", ",".join(CASES)).split(",")
OUT = Path(os.environ.get("TRIMTAB_BENCH_OUT", page.FILE))
MORE = bool(os.environ.get("TRIMTAB_BENCH_MORE"))
FORKS = multiprocessing.get_context("forkserver")
# What the systems import, the lazy parts of libraries too.
FORKS.set_forkserver_preload(
    [
        "torch._dynamo",
        "bitsandbytes",
        "trl.trainer.sft_trainer",
        "trl.trainer.dpo_trainer",
        "trimtab.train.display.display",
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
    before = rows.read(OUT)
    values: dict[rows.Cell, list[float]] = {}
    # A round of every case before the next, each cell written: a run may be cut short.
    for number in range(1, ROUNDS + 1):
        for case, system in product(WANTED, NAMES):
            for figure, value in _measured(system, case, whole=number == 1).items():
                values.setdefault((system, case, figure), []).append(value)
            told = head()
            found = {
                **told,
                "steps": STEPS,
                "seconds": round(time.monotonic() - started),
                "limits": {"gemm_gflop_s": round(rate / 1e9, 1)},
                "rows": rows.merged(before, values, told["commit"], more=MORE),
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


if __name__ == "__main__":
    main()
