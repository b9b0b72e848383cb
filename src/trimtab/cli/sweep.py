"""`trimtab sweep`: settings of training side by side."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from trimtab.cli.options import (
    home_option,
    json_option,
    open_project,
    print_json,
    print_table,
    project_argument,
    verbose_option,
)

if TYPE_CHECKING:
    from trimtab.flows.trials import Swept


@click.command("sweep")
@project_argument
@home_option
@json_option
@verbose_option
@click.pass_context
def command(context: click.Context, path: Path | None, home: Path | None, as_json: bool) -> None:
    """Try what PROJECT's `sweep` names; one that was killed goes on where it was.

    Exit code 3: the budget was over before one trial could be measured.
    """
    from trimtab.cli.screen import Screen
    from trimtab.flows.sweep import sweep
    from trimtab.flows.sweep_page import write_page
    from trimtab.store.home import find_home

    project = open_project(path)
    with Screen() as screen:
        swept = sweep(project, find_home(home, project.root), watch=screen)
    page = write_page(swept)
    if as_json:
        print_json(_plain(swept, page))
    else:
        _show(swept, page)
    context.exit(0 if swept.best else 3)


def _plain(swept: "Swept", page: Path) -> dict[str, Any]:
    trials = [
        {
            "fields": trial.fields,
            "verdict": trial.verdict,
            "why": trial.why,
            "held_out": [list(look) for look in trial.looks],
            "steps": trial.steps,
            "seconds": trial.seconds,
            "usd": trial.usd,
            "run": trial.run,
        }
        for trial in swept.trials
    ]
    return {
        "trials": trials,
        "best": swept.best.fields if swept.best else None,
        "whole": swept.whole,
        "seconds": swept.seconds,
        "usd": swept.usd,
        "page": str(page),
    }


def _show(swept: "Swept", page: Path) -> None:
    from trimtab.flows.sweep_page import COLUMNS, adopted, rows

    print_table("sweep", COLUMNS, rows(swept))
    if swept.best is not None:
        click.echo("the best, for the project file:\n")
        click.echo(adopted(swept.best))
    click.echo(f"page: {page}")
