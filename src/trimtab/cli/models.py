"""`trimtab models`: the model versions of a home."""

from pathlib import Path

import click

from trimtab.canonical import short
from trimtab.cli.options import (
    home_option,
    json_option,
    moment,
    open_database,
    print_json,
    print_table,
    project_argument,
    verbose_option,
)


@click.command("models")
@project_argument
@home_option
@json_option
@verbose_option
def command(path: Path | None, home: Path | None, as_json: bool) -> None:
    """List every model version with its state, base and run."""
    from trimtab.registry import versions
    from trimtab.store.clock import show

    with open_database(home, path) as database, database.read() as connection:
        found = versions.list(connection)
    if as_json:
        rows = [
            {
                "version": version.hash,
                "state": version.state,
                "project": version.project,
                "base": version.spec.base,
                "adapter": version.spec.adapter,
                "run": version.run_id,
                "dataset": version.dataset_hash,
                "created": show(version.created_us),
            }
            for version in found
        ]
        print_json({"models": rows})
        return
    if not found:
        click.echo("no model versions here yet; first: trimtab run")
        return
    columns = ("version", "state", "project", "base", "adapter", "created")
    table = [
        (
            short(version.hash),
            version.state,
            version.project,
            version.spec.base[:8],
            (version.spec.adapter or "-")[:8],
            moment(show(version.created_us)),
        )
        for version in found
    ]
    print_table("model versions", columns, table)
