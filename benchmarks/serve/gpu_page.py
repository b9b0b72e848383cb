"""The page of the GPU's runs, rendered from docs/benchmarks/serve-gpu.json.

python -m benchmarks.serve.gpu_page
"""

import json
import math
from typing import Any

from benchmarks.machine import ROOT
from benchmarks.serve import shapes
from benchmarks.serve.page import FIGURES, number

FILE = ROOT / "docs" / "benchmarks" / "serve-gpu.json"
PAGE = FILE.with_suffix(".md")

Found = dict[str, Any]


def main() -> None:
    PAGE.write_text(page(json.loads(FILE.read_text())))
    print(f"wrote {PAGE.relative_to(ROOT)}")


def page(found: Found) -> str:
    card, limits, machine = found["card"], found["limits"], found["machine"]
    lines = [
        "# Serving on a GPU, measured",
        "",
        f"{card['name']}, torch {card['torch']}, {machine['cores']} cores, Python "
        f"{machine['python']}, {found['date']}.",
        "",
        f"The card multiplied {limits['gemm_gflop_s'] / 1000:.0f} TFLOP/s in bfloat16 (a square of "
        f"8192) and read {limits['read_gb_s']:.0f} GB/s (two gigabytes).",
    ]
    lines += _steps(found) + _local(found)
    if not found["runs"]:
        lines += [
            "",
            "## Through HTTP, beside transformers' continuous batching",
            "",
            "Not measured: the only run on a card ended before its first cell, by a fault of the "
            "benchmark that is mended since, and there was no second. `make bench-serve` runs it "
            "where there is a GPU. vLLM could not be installed there.",
        ]
        return "\n".join(lines) + "\n"
    lines += [
        "",
        f"`make bench-serve` at {found['commit']}, one round of short cells: figures nearer than a "
        "tenth are the same. Prompts of 120 to 240 tokens, 64 new tokens, greedy; both systems "
        "behind HTTP, asked by the same client on the same machine, one at a time.",
    ]
    for run in found["runs"]:
        lines += ["", f"## {run['base']}", "", f"Weights: {run['weights']}.", ""]
        lines += [f"- {name}: {told}" for name, told in run["precisions"].items()]
        lines += _tables(run)
    return "\n".join(lines) + "\n"


def _steps(found: Found) -> list[str]:
    """Of a run of `benchmarks.serve.steps` that was written down, by base: one column a version."""
    lines: list[str] = []
    for base in dict.fromkeys(row["base"] for row in found.get("steps", ())):
        rows = [row for row in found["steps"] if row["base"] == base]
        versions = list(dict.fromkeys((row["kernels"], row["commit"]) for row in rows))
        lines += ["", f"## A step: {base}", "", f"Weights: {found['weights']}. Milliseconds, the "]
        lines[-1] += "best of several; 208 tokens are remembered of each sequence."
        lines += ["", *(f"- {told}" for told in dict.fromkeys(row["command"] for row in rows))]
        lines += ["", "| step | " + " | ".join(f"{k} ({c})" for k, c in versions) + " |"]
        lines += ["| --- |" + " ---: |" * len(versions)]
        ms = {(row["case"], row["kernels"]): row["ms"] for row in rows}
        for case in dict.fromkeys(row["case"] for row in rows):
            cells = [str(ms.get((case, kernels), "-")) for kernels, _ in versions]
            lines.append(f"| {case} | " + " | ".join(cells) + " |")
        lines += ["", _share(base, found["limits"], ms, versions[-1][0])]
    return lines


def _share(
    base: str, limits: dict[str, float], ms: dict[tuple[str, str], float], kernels: str
) -> str:
    """Of the memory's rate while one answers, of the multiplications' while a prompt is read."""
    config = shapes.SHAPES[base]
    inside = sum(
        math.prod(size) for name, size in shapes.weights(config).items() if ".layers." in name
    )
    head = config["vocab_size"] * config["hidden_size"]
    read = 2 * (inside + head) / 1e6 / ms["decode 1", kernels]
    rate = 2 * (180 * inside + head) / 1e6 / ms["prompt of 180", kernels]
    return (
        f"Of the limits above, with {kernels}: a step of one token reads the weights at "
        f"{read / limits['read_gb_s']:.0%} of the memory's rate, a prompt of 180 is multiplied at "
        f"{rate / limits['gemm_gflop_s']:.0%} of the matrix units'."
    )


def _local(found: Found) -> list[str]:
    if not found.get("local"):
        return []
    lines = ["", "## The engine without HTTP", "", "As `python -m benchmarks.serve.local --shape "]
    lines[-1] += f"{found['local'][0]['base']}` asks, at {found['local'][0]['commit']}: prompts of "
    lines[-1] += "180 random tokens, 64 new ones. Drawn is temperature 0.8, top_p 0.95."
    lines += ["", "| at once | tokens/s |", "| --- | ---: |"]
    return lines + [f"| {row['case']} | {row['output_tok_s']} |" for row in found["local"]]


def _tables(run: Found) -> list[str]:
    systems = list(run["precisions"])
    rows = {(row["system"], row["case"], row["figure"]): row["value"] for row in run["rows"]}
    lines: list[str] = []
    for figure in FIGURES:
        cases = list(dict.fromkeys(case for _, case, name in rows if name == figure))
        cases = [case for case in cases if any(rows.get((s, case, figure)) for s in systems)]
        if not cases:
            continue
        lines += ["", f"### {figure}", "", "| case | " + " | ".join(systems) + " |"]
        lines += ["| --- |" + " ---: |" * len(systems)]
        for case in cases:
            cells = [number(rows.get((system, case, figure))) for system in systems]
            lines.append(f"| {case} | " + " | ".join(cells) + " |")
    rest = [row for row in run["rows"] if row["figure"] not in FIGURES]
    if rest:
        lines += [
            "",
            "| system | case | figure | value | unit |",
            "| --- | --- | --- | ---: | --- |",
        ]
        lines += [
            f"| {r['system']} | {r['case']} | {r['figure']} | {number(r['value'])} | {r['unit']} |"
            for r in rest
        ]
    absent = [row for row in run["rows"] if row["value"] is None]
    lines += ["", *(f"Not measured: {r['system']} {r['case']}: {r['reason']}." for r in absent)]
    return lines


if __name__ == "__main__":
    main()
