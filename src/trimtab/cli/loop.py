"""Runs the loop as far as a verb asks, drawn in the terminal."""

from pathlib import Path
from typing import TYPE_CHECKING

from trimtab.cli.options import open_project, print_json

if TYPE_CHECKING:
    from trimtab.flows.loop import Outcome


def run_until(step: str, path: Path | None, home: Path | None, as_json: bool) -> "Outcome":
    """The outcome of the loop up to a step; with `as_json` its outputs go to standard output."""
    project = open_project(path)

    from trimtab.cli.screen import Screen
    from trimtab.flows.loop import run
    from trimtab.store.home import find_home

    with Screen() as screen:
        outcome = run(project, find_home(home, project.root), until=step, watch=screen)
    if as_json:
        print_json({"steps": outcome.outputs, "promoted": outcome.promoted})
    return outcome
