"""How long the demo's loop took, step by step, and what it proves: docs/benchmarks/demo.json.

    make bench-demo

Runs the example's loop where it was not run yet (`make demo` is the same loop), and reads its times
from the step journal: a loop takes minutes, so there is one repetition. Beside the time stands what
was bought with it, with the base as the peer: base, base with shots and adapter on the same items.
"""

import json
import resource
import subprocess
import sys
from typing import Any

from benchmarks.machine import ROOT, head

OUT = ROOT / "docs" / "benchmarks"
PROJECT = ROOT / "examples" / "support-desk" / "trimtab.yaml"


def main() -> None:
    from trimtab.cli.screen import Screen
    from trimtab.flows.loop import run
    from trimtab.flows.page import summaries
    from trimtab.flows.tables import list_steps
    from trimtab.project import Project

    project = Project.load(PROJECT)
    with Screen() as screen:
        outcome = run(project, watch=screen)
    database = outcome.home.database()
    with database.read() as connection:
        steps = list_steps(connection, project.name)
    database.close()
    seconds = {s["step"]: (s["finished_us"] - s["started_us"]) / 1e6 for s in steps}
    rows = [row("demo", step, "seconds", spent, "s") for step, spent in seconds.items()]
    rows.append(row("demo", "loop", "seconds", sum(seconds.values()), "s"))
    rows.append(row("demo", "train", "tok_s", tokens_s(outcome.outputs["train"]), "tokens/s"))
    for name, kinds in summaries(outcome).items():
        holdout = kinds["holdout"]
        rows.append(row(name, "holdout", "items", holdout["items"], "items"))
        rows.append(row(name, "holdout", "exact_match", holdout["exact_match"], "share"))
        rows.append(row(name, "holdout", "valid_json", holdout["valid_json"], "share"))
        if "performance" in kinds:
            rows.append(row(name, "alone", "p50_ms", kinds["performance"]["p50_ms"], "ms"))
            rows.append(row(name, "alone", "p95_ms", kinds["performance"]["p95_ms"], "ms"))
    rows.append(row("trimtab", "--help", "cpu_s", help_cpu_s(), "s"))
    write({**head(), "rows": rows})


def row(system: str, case: str, figure: str, value: float, unit: str) -> dict[str, Any]:
    rounded = round(value, 4)
    return {
        "system": system,
        "case": case,
        "figure": figure,
        "value": rounded,
        "unit": unit,
        "repetitions": [rounded],
        "precision": "single run",
    }


def tokens_s(train: Any) -> float:
    return float(train["tokens"]) / float(train["seconds"])


def help_cpu_s() -> float:
    """CPU seconds of `trimtab --help`, the median of five."""
    spent = []
    for _ in range(5):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, "-m", "trimtab", "--help"], stdout=subprocess.DEVNULL)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        spent.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return sorted(spent)[2]


def write(found: dict[str, Any]) -> None:
    OUT.mkdir(parents=True, exist_ok=True)
    (OUT / "demo.json").write_text(json.dumps(found, indent=2) + "\n")
    (OUT / "demo.md").write_text(page(found))
    print(f"wrote {OUT / 'demo.json'} and demo.md")


def page(found: dict[str, Any]) -> str:
    """The table, rendered from the file."""
    machine = found["machine"]
    lines = [
        "# The demo, measured",
        "",
        f"`make bench-demo` at {found['commit']} on {found['date']}: {machine['cpu']}, "
        f"{machine['cores']} cores, {machine['memory_gb']} GB, Python {machine['python']}. "
        "One run; the machine is shared, so read the seconds as upper bounds.",
        "",
        "| system | case | figure | value | unit |",
        "| --- | --- | --- | ---: | --- |",
    ]
    cells = ("system", "case", "figure", "value", "unit")
    lines += ["| " + " | ".join(str(row[cell]) for cell in cells) + " |" for row in found["rows"]]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
