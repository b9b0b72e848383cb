"""`trimtab export`: a version's adapter, for PEFT, vLLM or llama.cpp."""

from pathlib import Path

import click

from trimtab.cli.options import (
    home_option,
    json_option,
    open_home,
    print_json,
    project_argument,
    verbose_option,
)


@click.command("export")
@click.argument("version")
@click.argument("into", type=click.Path(path_type=Path))
@project_argument
@home_option
@json_option
@verbose_option
def command(version: str, into: Path, path: Path | None, home: Path | None, as_json: bool) -> None:
    """Write the adapter of VERSION (its hash, or the beginning of it) as INTO.

    A name that ends in .gguf becomes a file for llama.cpp's --lora, any other a folder as PEFT and
    vLLM load it.
    """
    from contextlib import closing

    from trimtab.flows.export import export

    place = open_home(home, path)
    with closing(place.database()) as database, database.read() as connection:
        whole = export(place, connection, version, into)
    if as_json:
        print_json({"version": whole, "written": str(into)})
        return
    click.echo(f"version {whole[:12]}: {into}")
