"""`trimtab run`: the whole loop."""

from pathlib import Path

import click

from trimtab.cli.loop import run_until
from trimtab.cli.options import home_option, json_option, project_argument, verbose_option
from trimtab.cli.summary import print_summary


@click.command("run")
@project_argument
@home_option
@json_option
@verbose_option
@click.pass_context
def command(context: click.Context, path: Path | None, home: Path | None, as_json: bool) -> None:
    """Run the loop of PROJECT; what is done already is skipped.

    Exit code 3: the loop ended, and the candidate was not promoted.
    """
    outcome = run_until("promote", path, home, as_json)
    if not as_json:
        print_summary(outcome)
    context.exit(0 if outcome.promoted else 3)
