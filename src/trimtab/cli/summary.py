"""What a finished loop shows: the table of versions, the verdict, what is live, the page."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape

from trimtab.canonical import short
from trimtab.cli.options import print_table

if TYPE_CHECKING:
    from trimtab.flows.loop import Outcome


def print_summary(outcome: "Outcome", page: Path) -> None:
    """The reports, what is live, and where the page lies."""
    print_reports(outcome)
    console = Console(highlight=False, soft_wrap=True)
    name = outcome.project.deployment
    if outcome.promoted:
        live = short(outcome.outputs["promote"]["live"])
        console.print(f"[bold green]live[/]  '{name}' answers with version [bold]{live}[/]")
    else:
        refused = f"{escape(outcome.refused)}; '{name}' answers as before"
        console.print(f"[bold yellow]not promoted[/]  {refused}")
    console.print(f"[dim]page[/]  {escape(str(page))}")


def print_reports(outcome: "Outcome") -> None:
    """One row a version and prompt: exact match, valid JSON, log-likelihood, latency."""
    from trimtab.flows.page import summaries

    columns = (
        "version",
        "exact match#",
        "valid JSON#",
        "nat/token#",
        "p50#",
        "p95#",
        "unsafe#",
    )
    rows = [_row(name, found) for name, found in summaries(outcome).items()]
    print_table("held-out items", columns, rows)
    gate = outcome.lines["gate"]
    Console(highlight=False).print(f"[bold]gate[/]  {escape(gate)}", soft_wrap=True)


def _row(name: str, found: dict[str, dict[str, Any]]) -> tuple[str, ...]:
    holdout, safety = found["holdout"], found.get("safety")
    speed = found.get("performance")
    return (
        name + (f" ({holdout['refused']} refused)" if holdout["refused"] else ""),
        f"{holdout['exact_match']:.1%}",
        "-" if holdout["valid_json"] is None else f"{holdout['valid_json']:.1%}",
        f"{holdout['log_likelihood_per_token']:.2f}",
        f"{speed['p50_ms']:.0f} ms" if speed else "-",
        f"{speed['p95_ms']:.0f} ms" if speed else "-",
        f"{safety['unsafe']} of {safety['items']}" if safety else "-",
    )
