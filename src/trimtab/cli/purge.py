"""`trimtab purge`: delete content whose time is over, or all of it."""

from dataclasses import asdict
from pathlib import Path

import click

from trimtab.cli.options import (
    home_option,
    json_option,
    open_home,
    print_facts,
    print_json,
    project_argument,
    verbose_option,
)

NAMES = {
    "answers": "answers kept for replays",
    "files": "files",
    "dead_letters": "dead letters",
    "lines": "lines of batches",
    "orphans": "leftovers of crashes",
    "words": "prompts and answers that were logged",
    "kept_for_batches": "files left, since batches work on them",
}


@click.command("purge")
@project_argument
@click.option("--all", "everything", is_flag=True, help="All content, not only what has expired.")
@click.option("--owner", help="Of this owner of keys alone.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@home_option
@json_option
@verbose_option
def command(
    path: Path | None,
    everything: bool,
    owner: str | None,
    yes: bool,
    home: Path | None,
    as_json: bool,
) -> None:
    """Delete stored answers, files, outputs of batches, dead letters and logged words that have
    expired.

    Keys, the ledger and the log of requests stay: they hold no words. The server does the same
    every minute.
    """
    opened = open_home(home, path)
    if everything and not yes:
        whose = f"of {owner}" if owner else "of everybody"
        click.confirm(f"delete all content {whose}, for good?", abort=True, err=True)

    from contextlib import closing

    from trimtab.gateway.offline.retention import purge

    with closing(opened.database()) as database:
        purged = asdict(purge(database, opened.content, everything=everything, owner=owner))
    if as_json:
        print_json(purged)
        return
    print_facts("deleted", ((what, str(purged[name])) for name, what in NAMES.items()))
