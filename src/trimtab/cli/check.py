"""`trimtab check`: say what is wrong with a project, one line a fault."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from trimtab.cli.options import json_option, print_json, project_argument, verbose_option

if TYPE_CHECKING:
    from trimtab.errors import UserError
    from trimtab.project import Project


@click.command("check")
@project_argument
@json_option
@verbose_option
@click.pass_context
def command(context: click.Context, path: Path | None, as_json: bool) -> None:
    """Check PROJECT, its base's name and its files of records; exit code 2 where there is a fault.

    Of each file the first fault is told. Nothing is downloaded.
    """
    from trimtab.project import check, find

    file = find(path)
    found, project = check(file)
    faults: list[UserError] = [*found] if project is None else [*_faults_beside(project)]
    if as_json:
        print_json({"faults": [{"message": f.message, "hint": f.hint} for f in faults]})
    elif faults:
        for fault in faults:
            click.echo(f"trimtab: {fault.message} - {fault.hint}", err=True)
    else:
        click.echo(f"{file}: fine")
    context.exit(2 if faults else 0)


def _faults_beside(project: "Project") -> "Iterator[UserError]":
    """What is wrong with what a sound project file names."""
    from trimtab.data.layout import record_of
    from trimtab.data.sources import read_file
    from trimtab.errors import ProjectError, UserError
    from trimtab.flows.bases import locate
    from trimtab.flows.settings import refused_launch
    from trimtab.project import PathSource

    try:
        locate(project.base, project.root)
    except UserError as error:
        yield error
    # How many devices there are is the plan's to find out: that needs torch.
    if reason := refused_launch(project, 1, project.train.method):
        yield ProjectError(
            f"train.launcher: {reason}", hint="docs/guides/distributed.md says what goes together"
        )
    for source in project.data.sources:
        if not isinstance(source, PathSource):
            continue
        try:
            for row in read_file(project.root / source.path, source.path):
                record_of(row)
        except UserError as error:
            yield error
