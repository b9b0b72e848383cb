"""Training on one card beside TRL with Liger's kernels, into docs/benchmarks/train-gpu.json.

    python -m benchmarks.train.gpu [CASE/SYSTEM ...]

Weights are random and drawn on the card; records are as long as the quickstart's. Each row is
measured in a process of its own, one after the other, because Liger changes transformers for all
that comes behind it in its process; what is measured is written at once.
"""

import json
import multiprocessing
import os
import sys
import tempfile
import traceback
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks.machine import head
from benchmarks.train.gpu import bases, limit, measure, page
from benchmarks.train.gpu.records import full, records
from benchmarks.train.gpu.rows import rows
from trimtab.plan.memory import card_memory
from trimtab.plan.work import Work
from trimtab.train.flops import step_work
from trimtab.train.preflight import Preflight
from trimtab.train.settings import TrainSettings
from trimtab.train.stream.walk import walkable

OUT = Path(os.environ.get("TRIMTAB_BENCH_OUT", "docs/benchmarks/train-gpu.json"))
# The quickstart's, packed rows of 1,024 tokens taken two at a time: sixteen a step.
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
QLORA = TrainSettings(method="qlora", rank=16, alpha=32, batch_size=1, max_length=1024)
# Of packed rows this much is filled; a step fewer than it takes would be a step of few tokens.
FILLED = 0.985
# Dense bfloat16, by the datasheets of H100 SXM and H200.
PEAK_FLOPS = 989e12

Run = Callable[..., measure.Measured]


@dataclass(frozen=True)
class Case:
    """A base, what it is taught, and who teaches it."""

    base: str
    settings: TrainSettings
    steps: int
    systems: dict[str, Run] = field(default_factory=dict)
    packed: bool = True

    @property
    def taught(self) -> Preflight:
        if not self.packed:
            return full(self.steps, self.settings.max_length, seed=17)
        rows = self.settings.batch_size * self.settings.accumulation
        size = int(self.steps * rows * self.settings.max_length * FILLED)
        return records(size, self.settings.max_length, seed=17)


TRL: dict[str, Run] = {
    "trl-liger-tuned": partial(measure.trl, gradient_checkpointing=False),
    "trl-liger": measure.trl,
}
CASES = {
    "lora-sft-1b": Case("llama-3.2-1b", QUICKSTART, 6, {"trimtab": measure.trimtab, **TRL}),
    "lora-sft-8b": Case(
        "llama-3-8b", replace(QUICKSTART, accumulation=4), 5, {"trimtab": measure.trimtab, **TRL}
    ),
    "qlora-sft-70b": Case(
        "llama-3-70b",
        replace(QLORA, max_length=1024),
        20,
        {
            "trimtab": measure.trimtab,
            "trimtab-checkpointed": partial(measure.trimtab, gradient_checkpointing=True),
        },
        packed=False,
    ),
    "qlora-sft-1b": Case(
        "llama-3.2-1b",
        QLORA,
        6,
        {
            f"trimtab-{optimizer}": partial(measure.trimtab, optim=optimizer)
            for optimizer in ("paged_adamw_32bit", "paged_adamw_8bit", "adamw_torch")
        },
        packed=False,
    ),
}
DEFAULT = (
    "lora-sft-1b/trimtab",
    "lora-sft-1b/trl-liger-tuned",
    "lora-sft-8b/trimtab",
    "lora-sft-8b/trl-liger-tuned",
    "qlora-sft-70b/trimtab-checkpointed",
    "lora-sft-1b/trl-liger",
    "qlora-sft-1b/trimtab-paged_adamw_32bit",
    "qlora-sft-1b/trimtab-adamw_torch",
    "qlora-sft-1b/trimtab-paged_adamw_8bit",
)


def main() -> None:
    told_of = head()
    commit = told_of.pop("commit")
    found: dict[str, Any] = {
        **told_of,
        "card": _apart(_card),
        "libraries": measure.versions(),
        "command": "python -m benchmarks.train.gpu",
        "rows": [],
    }
    for asked in sys.argv[1:] or DEFAULT:
        name, system = asked.split("/")
        try:
            told = _apart(_told, name, system)
        except Exception as error:  # of another product, or of a card that is too small
            traceback.print_exc()
            told = {"failed": f"{type(error).__name__}: {error}"[:300]}
        told |= {"case": name, "system": system, "run": 1, "commit": commit}
        found["rows"] += rows(told)
        print(json.dumps(told), flush=True)
        OUT.write_text(json.dumps(found, indent=1) + "\n")
    if page.FILE == OUT:
        page.main()


def _apart(work: Callable[..., Any], *given: str) -> Any:
    """What `work` returns in a process of its own."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as process:
        return process.submit(work, *given).result()


def _card() -> dict[str, Any]:
    memory = torch.cuda.get_device_properties(0).total_memory
    return {
        "name": torch.cuda.get_device_name(0),
        "memory": memory,
        "cuda": torch.version.cuda,
    }


def _told(name: str, system: str) -> dict[str, Any]:
    case = CASES[name]
    taught = case.taught
    with tempfile.TemporaryDirectory() as folder:
        done = case.systems[system](case.base, taught, case.settings, Path(folder))
        told: dict[str, Any] = done.figures()
        if case.packed:
            told["final_loss"] = measure.held_out(done.model, records(4096, 1024, seed=18))
        told["path"] = "trl"
        if done.prepared is not None:
            told["path"] = "stream" if walkable(done.model) else "transformers"
            told |= _of_ours(case, done)
    return told


def _of_ours(case: Case, done: measure.Measured) -> dict[str, Any]:
    """What can be said of our own steps: their operations, and the share that products take."""
    assert done.prepared is not None
    work = step_work(done.model, reference=False, shares=False)
    steps = done.prepared.step_batches
    operations = sum(work.of(step) for step in steps) / len(steps)
    told: dict[str, Any] = {
        "tflop_s": operations / done.step_s / 1e12,
        "mfu": operations / done.step_s / PEAK_FLOPS,
    }
    if walkable(done.model):
        whole = [row for batch in steps[WHOLE] for row in batch]
        told["share_of_limit"] = limit.products(done.model, whole) / done.step_s
    return told


# A step that is not the last one, which may be short.
WHOLE = 1


def planned(name: str, system: str, memory: int) -> int:
    """Bytes that the planner counts for the steps of a row on a card with so many."""
    case = CASES[name]
    settings, taught = case.settings, case.taught
    work = Work(
        records=settings.batch_size * settings.accumulation * case.steps,
        tokens=taught.tokens,
        supervised=taught.supervised,
        longest=settings.max_length,
        shared_prefix=0,
        epochs=1,
        batch_size=settings.batch_size,
        accumulation=settings.accumulation,
        rank=settings.rank,
        targets=settings.targets,
        checkpointed=system.endswith("-checkpointed"),
    )
    return card_memory(bases.shape(case.base), work, settings.method, "bfloat16", memory).step


if __name__ == "__main__":
    main()
