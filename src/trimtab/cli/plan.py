"""`trimtab plan`: which methods fit this machine."""

from pathlib import Path

import click

from trimtab.cli.options import (
    home_option,
    json_option,
    print_json,
    print_table,
    project_argument,
    verbose_option,
)


@click.command("plan")
@project_argument
@home_option
@json_option
@verbose_option
def command(path: Path | None, home: Path | None, as_json: bool) -> None:
    """Show every way to train PROJECT here: memory, time, price, and why some are refused."""
    from trimtab.cli.loop import plain, run_until

    outcome = run_until("plan", path, home)
    if as_json:
        print_json(plain(outcome))
        return
    columns = ("way", "memory#", "time#", "price#", "verdict")
    print_table("plan", columns, outcome.outputs["plan"]["rows"])
