"""`trimtab train`: the loop as far as a trained adapter, or the preflight alone."""

from pathlib import Path
from typing import TYPE_CHECKING

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
    from trimtab.flows.preview import Preview

COLOURS = {"given": "dim", "learnt": "bold green", "against": "red"}


@click.command("train")
@project_argument
@home_option
@json_option
@verbose_option
@click.option(
    "--preflight", is_flag=True, help="Check and show what would be trained; train nothing."
)
def command(path: Path | None, home: Path | None, as_json: bool, preflight: bool) -> None:
    """Train PROJECT; a run that was killed goes on from its last checkpoint."""
    from trimtab.cli.loop import plain, run_until

    if preflight:
        _preflight(path, home, as_json)
        return
    outcome = run_until("train", path, home)
    if as_json:
        print_json(plain(outcome))
        return
    folder = outcome.home.runs / outcome.outputs["train"]["run"]
    click.echo(f"loss curve: {folder / 'loss.svg'}")


def _preflight(path: Path | None, home: Path | None, as_json: bool) -> None:
    from trimtab.cli.screen import Screen
    from trimtab.flows.preview import preview
    from trimtab.store.home import find_home

    project = open_project(path)
    with Screen() as screen:
        found = preview(project, find_home(home, project.root), watch=screen)
    if as_json:
        print_json(found.checked.to_json())
        return
    _show(found)


def _show(found: "Preview") -> None:
    from rich.console import Console
    from rich.text import Text

    told = found.checked.to_json()
    rows = [
        (name.replace("_", " "), str(value)) for name, value in told.items() if name != "dropped"
    ]
    print_table("preflight", ("what", "found#"), rows)
    if dropped := told["dropped"]:
        reasons = [(str(each["record"]), each["reason"]) for each in dropped]
        print_table("left out", ("record#", "reason"), reasons)
    console = Console(highlight=False)
    legend = Text("given ", "dim").append("learnt ", "bold green").append("held against", "red")
    console.print(legend)
    for pieces in found.pieces:
        line = Text()
        for piece in pieces:
            line.append(piece.text, COLOURS[piece.kind])
        console.print(line)
