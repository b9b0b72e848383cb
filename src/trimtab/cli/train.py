"""`trimtab train`: the loop as far as a trained adapter."""

from pathlib import Path

import click

from trimtab.cli.options import (
    home_option,
    json_option,
    print_json,
    project_argument,
    verbose_option,
)


@click.command("train")
@project_argument
@home_option
@json_option
@verbose_option
def command(path: Path | None, home: Path | None, as_json: bool) -> None:
    """Train PROJECT's adapter; a run that was killed goes on from its last checkpoint."""
    from trimtab.cli.loop import plain, run_until

    outcome = run_until("train", path, home)
    if as_json:
        print_json(plain(outcome))
        return
    folder = outcome.home.runs / outcome.outputs["train"]["run"]
    click.echo(f"loss curve: {folder / 'loss.svg'}")
