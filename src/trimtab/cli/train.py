"""`trimtab train`: the loop as far as a trained adapter."""

from pathlib import Path

import click

from trimtab.cli.options import home_option, json_option, project_argument, verbose_option


@click.command("train")
@project_argument
@home_option
@json_option
@verbose_option
def command(path: Path | None, home: Path | None, as_json: bool) -> None:
    """Train PROJECT's adapter; a run that was killed goes on from its last checkpoint."""
    from trimtab.cli.loop import run_until

    outcome = run_until("train", path, home, as_json)
    if not as_json:
        folder = outcome.home.runs / outcome.outputs["train"]["run"]
        click.echo(f"loss curve: {folder / 'loss.svg'}")
