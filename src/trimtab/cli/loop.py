"""Runs the loop as far as a verb asks, drawn in the terminal, and tells what came of it."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from trimtab.cli.options import open_project

if TYPE_CHECKING:
    from trimtab.flows.loop import Outcome


def run_until(step: str, path: Path | None, home: Path | None) -> "Outcome":
    """The outcome of the loop up to a step. Progress goes to standard error."""
    project = open_project(path)

    from trimtab.cli.screen import Screen
    from trimtab.flows.loop import run
    from trimtab.store.home import find_home

    with Screen() as screen:
        return run(project, find_home(home, project.root), until=step, watch=screen)


def plain(outcome: "Outcome", **more: Any) -> dict[str, Any]:
    """An outcome as plain JSON, with what a verb shows beside it."""
    return {
        "steps": outcome.outputs,
        "promoted": outcome.promoted,
        "refused": outcome.refused,
        **more,
    }
