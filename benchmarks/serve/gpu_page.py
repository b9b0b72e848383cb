"""The page of the GPU's run, rendered from docs/benchmarks/serve-gpu.json.

python -m benchmarks.serve.gpu_page
"""

import json
from typing import Any

from benchmarks.machine import ROOT
from benchmarks.serve.page import FIGURES, number

FILE = ROOT / "docs" / "benchmarks" / "serve-gpu.json"
PAGE = FILE.with_suffix(".md")


def main() -> None:
    PAGE.write_text(page(json.loads(FILE.read_text())))
    print(f"wrote {PAGE.relative_to(ROOT)}")


def page(found: dict[str, Any]) -> str:
    card, limits, machine = found["card"], found["limits"], found["machine"]
    lines = [
        "# Serving on a GPU, measured",
        "",
        f"`make bench-serve` at {found['commit']} on {found['date']}: {card['name']}, torch "
        f"{card['torch']}, {machine['cores']} cores ({machine['cpu']}), Python "
        f"{machine['python']}. One round of short cells: figures nearer than a tenth are the same. "
        "Prompts of 120 to 240 tokens, 64 new tokens, greedy; both systems behind HTTP, asked by "
        "the same client on the same machine, one at a time.",
        "",
        f"The card multiplied {limits['gemm_gflop_s'] / 1000:.0f} TFLOP/s in bfloat16 (a square of "
        f"8192) and read {limits['read_gb_s']:.0f} GB/s (two gigabytes), measured in the same run.",
    ]
    for run in found["runs"]:
        lines += ["", f"## {run['base']}", "", f"Weights: {run['weights']}.", ""]
        lines += [f"- {name}: {told}" for name, told in run["precisions"].items()]
        lines += _tables(run)
    return "\n".join(lines) + "\n"


def _tables(run: dict[str, Any]) -> list[str]:
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
