"""`trimtab evaluate`: the loop as far as the gate, and the reports."""

from pathlib import Path

import click

from trimtab.cli.options import (
    home_option,
    json_option,
    print_json,
    project_argument,
    verbose_option,
)


@click.command("evaluate")
@project_argument
@home_option
@json_option
@verbose_option
@click.pass_context
def command(context: click.Context, path: Path | None, home: Path | None, as_json: bool) -> None:
    """Measure base and candidate on the held-out items, and say what the gate says.

    Exit code 3: the gate does not say better.
    """
    from trimtab.cli.loop import plain, run_until
    from trimtab.cli.summary import print_reports
    from trimtab.flows.page import summaries

    outcome = run_until("gate", path, home)
    if as_json:
        print_json(plain(outcome, reports=summaries(outcome)))
    else:
        print_reports(outcome)
    context.exit(3 if outcome.refused else 0)
