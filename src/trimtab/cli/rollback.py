"""`trimtab rollback`: put the previous version back."""

from pathlib import Path

import click

from trimtab.cli.options import (
    home_option,
    open_database,
    open_project,
    project_argument,
    verbose_option,
)


@click.command("rollback")
@project_argument
@click.option("--why", default="by hand", show_default=True, help="Kept with the event.")
@home_option
@verbose_option
def command(path: Path | None, why: str, home: Path | None) -> None:
    """Make the version before the live one live again, at once."""
    project = open_project(path)

    from trimtab.deploy.promote import rollback
    from trimtab.registry import deployments

    with open_database(home, path) as database, database.transaction() as connection:
        live = deployments.get(connection, project.deployment).live
        now = rollback(connection, project.deployment, live, why)
    click.echo(f"'{now.name}' answers with {now.live[:12]} again; {live[:12]} is rolled back")
