"""What a finished loop shows: the table of versions, the verdict, what is live, the page."""

from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape

from trimtab.cli.options import print_table

if TYPE_CHECKING:
    from trimtab.flows.loop import Outcome


def print_summary(outcome: "Outcome") -> None:
    from trimtab.flows.page import write_page

    if "gate" in outcome.outputs:
        print_reports(outcome)
    console = Console(highlight=False)
    name = outcome.project.deployment
    if outcome.promoted:
        live = outcome.outputs["promote"]["live"][:12]
        console.print(f"[bold green]live[/] '{name}' answers with version [bold]{live}[/]")
    else:
        console.print(f"[bold yellow]not promoted[/] {escape(outcome.refused)}")
    console.print(f"[dim]page[/] {write_page(outcome)}", soft_wrap=True)


def print_reports(outcome: "Outcome") -> None:
    """One row a version and prompt: exact match, valid JSON, log-likelihood, latency."""
    from trimtab.flows.page import summaries

    columns = (
        "version",
        "exact match#",
        "valid JSON#",
        "log-lik./token#",
        "p50#",
        "p95#",
        "unsafe#",
    )
    rows = [_row(name, found) for name, found in summaries(outcome).items()]
    print_table("held-out items", columns, rows)
    gate = outcome.lines["gate"]
    Console(highlight=False).print(f"[bold]gate[/] {escape(gate)}", soft_wrap=True)


def _row(name: str, found: dict[str, dict[str, Any]]) -> tuple[str, ...]:
    holdout, safety = found["holdout"], found.get("safety")
    speed = found.get("performance")
    return (
        name,
        f"{holdout['exact_match']:.1%}",
        "-" if holdout["valid_json"] is None else f"{holdout['valid_json']:.1%}",
        f"{holdout['log_likelihood_per_token']:.2f}",
        f"{speed['p50_ms']:.0f} ms" if speed else "-",
        f"{speed['p95_ms']:.0f} ms" if speed else "-",
        f"{safety['unsafe']} of {safety['items']}" if safety else "-",
    )
