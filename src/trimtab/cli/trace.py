"""`trimtab trace`: from any name to the whole chain, both ways."""

from pathlib import Path
from typing import Any

import click

from trimtab.cli.options import (
    home_option,
    json_option,
    open_database,
    print_facts,
    print_json,
    project_argument,
    verbose_option,
)


@click.command("trace")
@click.argument("name")
@project_argument
@home_option
@click.option("--words", is_flag=True, help="Of an answer: what was asked and said, if logged.")
@json_option
@verbose_option
def command(name: str, path: Path | None, words: bool, home: Path | None, as_json: bool) -> None:
    """Follow NAME: an answer's id, a run, or a version's, dataset's or record's hash."""
    from trimtab.flows.lineage import lineage, spoken

    with open_database(home, path) as database, database.read() as connection:
        chains = lineage(connection, name)
        said = spoken(connection, name) if words else None
    if as_json:
        print_json({"chains": chains} if said is None else {"chains": chains, "words": said})
        return
    if said is not None:
        print_facts(f"request {name}", _said(said))
    if not chains:
        click.echo(f"no version gave this answer: {name}")
    for chain in chains:
        print_facts(f"version {chain['version'][:12]}", _rows(chain))


def _said(said: dict[str, Any]) -> list[tuple[str, str]]:
    from trimtab.journal.words import MOST_CHARACTERS

    cut = [("cut", f"the first {MOST_CHARACTERS:,} characters of each are kept")]
    return [("asked", said["asked"]), ("answered", said["answered"]), *(cut if said["cut"] else [])]


def _rows(chain: dict[str, Any]) -> list[tuple[str, str]]:
    lines = [f"{line['source']}:{line['line']} ({line['split']})" for line in chain["lines"]]
    shown = ", ".join(lines[:3]) + (f" and {len(lines) - 3} more" if len(lines) > 3 else "")
    return [
        ("source lines", shown or "-"),
        ("dataset", chain["dataset"] or "-"),
        ("run", chain["run"] or "-"),
        ("base", chain["base"]),
        ("adapter", chain["adapter"] or "-"),
        ("state", chain["state"]),
        *(("report", f"{r['suite']} {r['hash'][:12]}") for r in chain["reports"]),
        *(("gate", f"{g['verdict']} {g['hash'][:12]}") for g in chain["gates"]),
        *(("deployment", f"{e['deployment']} {e['kind']}: {e['why']}") for e in chain["events"]),
        ("answers", str(chain["answers"])),
    ]
