"""Training on one card beside TRL with Liger's kernels, into docs/benchmarks/train-gpu.json.

python -m benchmarks.train.gpu [CASE ...]
"""

import gc
import json
import os
import sys
import tempfile
import time
import traceback
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks.train.gpu import measure
from benchmarks.train.gpu.records import records
from trimtab.train.settings import TrainSettings

OUT = Path(os.environ.get("TRIMTAB_BENCH_OUT", "docs/benchmarks/train-gpu.json"))
# The quickstart's: sixteen packed rows of 1,024 tokens a step, taken two at a time.
QUICKSTART = TrainSettings(
    rank=16,
    alpha=32,
    dropout=0.05,
    targets=("q_proj", "k_proj", "v_proj", "o_proj"),
    batch_size=2,
    accumulation=8,
    packing=True,
    learning_rate=2e-4,
    max_length=1024,
)
WIDE = replace(QUICKSTART, batch_size=16, accumulation=1)
STEPS = int(os.environ.get("TRIMTAB_BENCH_STEPS", "6"))
TOKENS = 16 * 1024
SYSTEMS: dict[str, Any] = {
    "trimtab": (measure.trimtab, WIDE),
    "trimtab-quickstart": (measure.trimtab, QUICKSTART),
    "trl-liger": (measure.trl, QUICKSTART),
    "trl-liger-kept": (partial(measure.trl, gradient_checkpointing=False), QUICKSTART),
    "trl-liger-rows": (
        partial(measure.trl, gradient_checkpointing=False),
        replace(QUICKSTART, batch_size=1, accumulation=16),
    ),
    "trl-liger-flex": (
        partial(measure.trl, attention="flex_attention", gradient_checkpointing=False),
        replace(QUICKSTART, batch_size=8, accumulation=2),
    ),
}


def main() -> None:
    base, *names = sys.argv[1:]
    taught = records(int(STEPS * TOKENS * 0.985), 1024, seed=17)
    held = records(4096, 1024, seed=18)
    for name in names or SYSTEMS:
        run, settings = SYSTEMS[name]
        started = time.monotonic()
        try:
            with tempfile.TemporaryDirectory() as folder:
                done = run(base, taught, settings, Path(folder))
                told = done.figures() | {"steps": done.steps}
                told["final_loss"] = measure.held_out(done.model, held)
                if name == "trimtab" and done.prepared:
                    told |= _limits(done)
        except Exception as error:
            traceback.print_exc()
            told = {"failed": f"{type(error).__name__}: {error}"[:300]}
        done = None
        gc.collect()
        torch.cuda.empty_cache()
        told["took_s"] = round(time.monotonic() - started, 1)
        print("RESULT", json.dumps({"base": base, "system": name, **told}), flush=True)


def _limits(done: Any) -> dict[str, float]:
    from trimtab.train.flops import step_work

    work = step_work(done.model, reference=False, shares=False)
    steps = done.prepared.step_batches
    operations = sum(work.of(step) for step in steps) / len(steps)
    return {"tflop_s": operations / done.step_s / 1e12}


if __name__ == "__main__":
    main()
