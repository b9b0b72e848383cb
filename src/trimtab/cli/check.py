"""`trimtab check`: say what is wrong with a project file, one line a fault."""

from pathlib import Path

import click

from trimtab.cli.options import json_option, print_json, project_argument, verbose_option


@click.command("check")
@project_argument
@json_option
@verbose_option
@click.pass_context
def command(context: click.Context, path: Path | None, as_json: bool) -> None:
    """Check PROJECT and that its sources exist; exit code 2 where there is a fault."""
    from trimtab.errors import ProjectError
    from trimtab.project import PathSource, check, find

    file = find(path)
    faults, project = check(file)
    if project is not None:
        paths = [s.path for s in project.data.sources if isinstance(s, PathSource)]
        missing = [project.root / path for path in paths if not (project.root / path).is_file()]
        faults += [ProjectError(f"{m}: no such file", hint="see data.sources") for m in missing]
    if as_json:
        print_json({"faults": [{"message": f.message, "hint": f.hint} for f in faults]})
    elif faults:
        for fault in faults:
            click.echo(f"trimtab: {fault.message} - {fault.hint}", err=True)
    else:
        click.echo(f"{file}: fine")
    context.exit(2 if faults else 0)
