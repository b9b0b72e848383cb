"""What verbs share: where the project and the home are, and how to print."""

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import click

if TYPE_CHECKING:
    from rich.table import Table

    from trimtab.project import Project
    from trimtab.store.database import Database
    from trimtab.store.home import Home

Verb = TypeVar("Verb", bound=Callable[..., Any])


def project_argument(verb: Verb) -> Verb:
    return click.argument(
        "path", metavar="[PROJECT]", required=False, type=click.Path(path_type=Path)
    )(verb)


def home_option(verb: Verb) -> Verb:
    return click.option(
        "--home",
        type=click.Path(path_type=Path, file_okay=False),
        help="The home; else TRIMTAB_HOME, else .trimtab beside the project file.",
    )(verb)


def json_option(verb: Verb) -> Verb:
    return click.option("--json", "as_json", is_flag=True, help="Print JSON.")(verb)


def verbose_option(verb: Verb) -> Verb:
    # Read by `main` from the command line itself, since errors outlive the verb's own scope.
    return click.option(
        "-v", "--verbose", is_flag=True, expose_value=False, help="Show tracebacks."
    )(verb)


def open_project(path: Path | None) -> "Project":
    from trimtab.project import Project, find

    return Project.load(find(path))


def open_home(flag: Path | None, path: Path | None) -> "Home":
    """The home that a verb works on; a project file is needed only where nothing else names one."""
    import os

    from trimtab.errors import ProjectError
    from trimtab.project import find
    from trimtab.store.home import find_home

    if path is None and (flag is not None or "TRIMTAB_HOME" in os.environ):
        return find_home(flag)
    file = find(path)
    if not file.is_file():
        raise ProjectError(f"{file}: no such file", hint="name a project, or --home")
    return find_home(flag, file.resolve().parent)


@contextmanager
def open_database(flag: Path | None, path: Path | None) -> "Iterator[Database]":
    """The database of the home that a verb works on, for as long as the block runs."""
    with closing(open_home(flag, path).database()) as database:
        yield database


def project_if_any(path: Path | None) -> "Project | None":
    """The project that was named or lies here; None where only a home was named.

    Raises ProjectError for one that lies here and is broken.
    """
    from trimtab.errors import ProjectError
    from trimtab.project import Project, find

    try:
        file = find(path)
    except ProjectError:
        return None
    return Project.load(file)


def print_json(value: Any) -> None:
    click.echo(json.dumps(value, indent=2, ensure_ascii=False))


def moment(iso: str) -> str:
    """A time as people read it, to the minute."""
    return iso[:16].replace("T", " ") + " UTC"


def print_table(title: str, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """A table in the terminal; columns whose name ends in '#' are numbers, set to the right.

    Where it is narrow, heads and long cells fold; the first column does not.
    """
    from rich.console import Console
    from rich.markup import escape

    table = _table(title, show_header=True)
    for place, column in enumerate(columns):
        number = column.endswith("#")
        justify: Literal["right", "left"] = "right" if number else "left"
        table.add_column(column.rstrip("#"), justify=justify, overflow="fold", no_wrap=place == 0)
    for row in rows:
        table.add_row(*(escape(cell) for cell in row))
    Console().print(table)


def print_facts(title: str, facts: Iterable[tuple[str, str]]) -> None:
    """Names and values below each other, without a head."""
    from rich.console import Console
    from rich.markup import escape

    table = _table(title, show_header=False)
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in facts:
        table.add_row(name, escape(value))
    Console().print(table)


def _table(title: str, show_header: bool) -> "Table":
    from rich import box
    from rich.table import Table

    return Table(
        title=title,
        title_justify="left",
        title_style="bold",
        header_style="dim",
        box=box.SIMPLE_HEAD,
        show_header=show_header,
        padding=(0, 1, 0, 0),
        pad_edge=False,
    )
