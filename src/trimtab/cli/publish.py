"""`trimtab publish`: tell the trackers what could not be told while it happened."""

from pathlib import Path

import click

from trimtab.cli.options import home_option, open_home, project_argument, verbose_option


@click.command("publish")
@project_argument
@home_option
@verbose_option
def command(path: Path | None, home: Path | None) -> None:
    """Deliver what waits in the outbox of a home; what was delivered before is not sent again."""
    from trimtab.errors import UserError
    from trimtab.flows.publishing import deliver

    waiting, errors = deliver(open_home(home, path))
    if errors:
        raise UserError(
            f"{waiting} points still wait: {'; '.join(errors)}",
            hint="they are kept: run it again when the tracker answers",
        )
    click.echo("all points are delivered")
