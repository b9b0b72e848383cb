"""The benchmark where there is an NVIDIA GPU: this engine in bfloat16 beside transformers' own
continuous batching, into docs/benchmarks/serve-gpu.json and a page.

    make bench-serve

One round of short cells, two minutes in all; a larger base after the small one, where the card and
not the launches decides. TRIMTAB_BENCH_SHAPES (a list with commas) names the bases, whose weights
are random where the real one cannot be had, and with TRIMTAB_BENCH_RANDOM=1 without asking for it;
TRIMTAB_BENCH_OUT another file. What an earlier run of `steps` and `local` left in it stays.
"""

import asyncio
import json
import math
import os
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.machine import head
from benchmarks.serve import gpu_page, material, shapes
from benchmarks.serve.cases import Measured, Turn, goodput, measure
from benchmarks.serve.limits import gpu_limits
from benchmarks.serve.load import Face
from benchmarks.serve.peers import Absent
from benchmarks.serve.rows import Rows
from benchmarks.serve.systems import FACES, Start, System, Workshop, free_port, started, trimtab
from trimtab.errors import TrimtabError

OUT = Path(os.environ.get("TRIMTAB_BENCH_OUT", gpu_page.FILE))
FIRST, *LARGER = os.environ.get("TRIMTAB_BENCH_SHAPES", "smollm2-135m,llama-3.2-1b").split(",")
TIMES = {"trimtab": 6, "transformers-continuous": 2}
"""Cells of a few seconds each."""
SLO_MS = 1200
FIRST_RATE = {"trimtab": 32.0, "transformers-continuous": 8.0}
"""Of the open loop, requests a second."""
RUNG, RUNG_S = 1.5, 2.5
GATEWAYS = 4
BESIDE = ("weights", "steps", "local")
"""Of the file, what other commands measured: each row names its own and its commit."""
ABSENT = {"vllm": "left out: for CUDA it wants an environment of its own, which this run has not"}


def transformers_continuous(shop: Workshop, stack: ExitStack) -> System:
    port = free_port()
    command = [sys.executable, str(FACES / "hf_continuous.py"), str(port), str(shop.base)]
    more = {"HF_HUB_OFFLINE": "1"}
    process = started(stack, command, shop, "transformers-continuous", more=more)
    without = "its continuous batching takes no adapters by the request"
    base = Face(port, "base")
    return System("transformers-continuous", "bfloat16", base, [], [process], without)


STARTS: dict[str, Start] = {
    "trimtab": trimtab,
    "transformers-continuous": transformers_continuous,
}


@dataclass
class Run:
    """A base on the card, and what was found of it so far."""

    name: str
    made: str
    base: Path
    rows: Rows

    @property
    def found(self) -> dict[str, Any]:
        return {
            "base": self.name,
            "weights": self.made,
            "precisions": self.rows.precisions,
            "rows": list(self.rows.rows()),
        }


def main() -> None:
    import torch

    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        machine = gpu_limits()
        card = {"name": torch.cuda.get_device_name(), "torch": torch.__version__}
        print(f"{card['name']}: {machine}", flush=True)
        runs = [Run(name, *a_base(folder / name, name), Rows()) for name in (FIRST, *LARGER)]
        torch.cuda.empty_cache()
        systems = begin(runs, folder, stack)
        prompts = {run.name: material.Prompts(run.base, seed=time.time_ns()) for run in runs}
        for run, system in systems:
            asyncio.run(take(system, run, prompts[run.name], run is runs[0]))
            write(runs, machine, card)
        for run, system in systems:
            if run is runs[0]:
                asyncio.run(open_loop(system, run, prompts[run.name]))
                write(runs, machine, card)


def a_base(folder: Path, name: str) -> tuple[str, Path]:
    """How its weights came to be, and its folder."""
    if name == "smollm2-135m" and os.environ.get("TRIMTAB_BENCH_RANDOM") != "1":
        try:
            return "the catalogue's", material.base_folder()
        except TrimtabError:
            pass
    return "random, in its shape", shapes.base(folder, name)


def begin(runs: Sequence[Run], folder: Path, stack: ExitStack) -> list[tuple[Run, System]]:
    """All at once, for most of a start is import."""
    shops = {}
    for run in runs:
        place = folder / f"{run.name}-run"
        place.mkdir()
        adapters = material.adapters(place, run.base) if run is runs[0] else []
        shops[run.name] = Workshop(place, run.base, adapters, [], gateways=GATEWAYS)
        absent = {(name, "base/c1", "output_tok_s"): why for name, why in ABSENT.items()}
        run.rows.absent |= absent

    def start(wanted: tuple[Run, str]) -> tuple[Run, System] | None:
        run, name = wanted
        try:
            system = STARTS[name](shops[run.name], stack)
        except Absent as reason:
            print(f"{name}: absent, {reason}", flush=True)
            run.rows.absent[name, "base/c1", "output_tok_s"] = str(reason)
            return None
        system.signal(signal.SIGSTOP)
        return run, system

    wanted = [(run, name) for run in runs for name in STARTS]
    with ThreadPoolExecutor(len(wanted)) as pool:
        ready = [each for each in pool.map(start, wanted) if each is not None]
    for run, system in ready:
        run.rows.precisions[system.name] = system.precision
        if system.without:
            run.rows.absent[system.name, "adapters8/c1", "output_tok_s"] = system.without
    return ready


async def take(system: System, run: Run, prompts: material.Prompts, whole: bool) -> None:
    times = TIMES[system.name]
    turn = Turn([1, 32], (), (), times)
    if whole:
        turn = Turn([1, 4, 16, 32], [1, 4, 16, 32], [1, 8], times)
    with system.awake():
        # What is compiled and captured at the first use, is so before.
        async for _ in measure(system, prompts, Turn(turn.base, turn.adapters)):
            pass
        async for measured in measure(system, prompts, turn):
            told(run, system, measured)


async def open_loop(system: System, run: Run, prompts: material.Prompts) -> None:
    with system.awake():
        first = FIRST_RATE[system.name]
        rate = await goodput(system, prompts, SLO_MS / 1000, first, RUNG, RUNG_S)
        told(run, system, Measured(f"goodput/p95-{SLO_MS}", {"requests_s": rate}))


def told(run: Run, system: System, measured: Measured) -> None:
    run.rows.note(system.name, measured)
    figures = " ".join(f"{name}={value:.1f}" for name, value in measured.figures.items())
    print(
        f"{run.name} {system.name:22} {measured.case:18} {figures or measured.reason}", flush=True
    )


def write(runs: Sequence[Run], machine: dict[str, float], card: dict[str, str]) -> None:
    """After every system: a run that is cut short leaves what it had."""
    for run in runs:
        shares(run, machine)
    found = {**head(), "card": card, "limits": machine, "runs": [run.found for run in runs]}
    OUT.parent.mkdir(parents=True, exist_ok=True)
    earlier = json.loads(OUT.read_text()) if OUT.exists() else {}
    found |= {name: earlier[name] for name in BESIDE if name in earlier}
    OUT.write_text(json.dumps(found, indent=1) + "\n")
    if gpu_page.FILE == OUT:
        gpu_page.main()


def shares(run: Run, machine: dict[str, float]) -> None:
    """Of the card's multiplications while a prompt is read, of its memory's while one answers."""
    config = json.loads((run.base / "config.json").read_text())
    sizes = [(name, math.prod(size)) for name, size in shapes.weights(config).items()]
    inside = sum(size for name, size in sizes if ".layers." in name)
    head_size = config["vocab_size"] * config["hidden_size"]
    for system in run.rows.precisions:
        first = run.rows.values.get((system, "base/c1", "ttft_p50_ms"))
        whole = run.rows.values.get((system, "base/c1", "latency_p50_ms"))
        # A stream that came all at once tells nothing of its tokens.
        if not first or not whole or median(whole) <= median(first):
            continue
        # A prompt has 180 tokens on the average, all but the last without the head.
        rate = 2 * (180 * inside + head_size) / 1e9 / (median(first) / 1000)
        each = (median(whole) - median(first)) / 1000 / 63
        read = 2 * (inside + head_size) / 1e9 / each
        run.rows.values[system, "limits/c1", "share_of_gemm"] = [rate / machine["gemm_gflop_s"]]
        share = read / machine["read_gb_s"]
        run.rows.values[system, "limits/c1", "share_of_bandwidth"] = [share]
