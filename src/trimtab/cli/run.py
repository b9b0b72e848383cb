"""`trimtab run`: the whole loop."""

from pathlib import Path

import click

from trimtab.cli.options import (
    home_option,
    json_option,
    print_json,
    project_argument,
    verbose_option,
)


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
    from trimtab.cli.loop import plain, run_until
    from trimtab.cli.summary import print_summary
    from trimtab.flows.page import summaries, write_page

    outcome = run_until("promote", path, home)
    page = write_page(outcome)
    if as_json:
        print_json(plain(outcome, reports=summaries(outcome), page=str(page)))
    else:
        print_summary(outcome, page)
    context.exit(0 if outcome.promoted else 3)
