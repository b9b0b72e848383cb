"""`trimtab dead-letters`: what was accepted for later and failed for good."""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from trimtab.cli.options import (
    home_option,
    json_option,
    moment,
    open_database,
    print_facts,
    print_json,
    print_table,
    project_argument,
    verbose_option,
)
from trimtab.cli.screen import Screen

if TYPE_CHECKING:
    from trimtab.gateway.offline.redrive import Taken
    from trimtab.journal.dead_letters import Choice, DeadLetter
    from trimtab.store.database import Database

POLL_S = 0.5


def choice_options(verb: Callable[..., Any]) -> Callable[..., Any]:
    """Which letters a verb is about."""
    for option in (
        click.option("--owner", help="Of this owner of keys alone."),
        click.option("--reason", help="Of this reason alone."),
        click.option("--batch", help="Of this batch alone."),
    ):
        verb = option(verb)
    return verb


@click.group("dead-letters")
def command() -> None:
    """List, show, replay and delete work that was accepted for later and failed for good."""


@command.command("list")
@project_argument
@choice_options
@click.option("--limit", default=1000, show_default=True, type=click.IntRange(1, 100_000))
@home_option
@json_option
@verbose_option
def list_letters(
    path: Path | None,
    batch: str | None,
    reason: str | None,
    owner: str | None,
    limit: int,
    home: Path | None,
    as_json: bool,
) -> None:
    """List dead letters, the oldest first. Their words are shown by `show` alone."""
    with open_database(home, path) as database:
        from trimtab.journal import dead_letters

        choice = _choice(batch, reason, owner)
        with database.read() as connection:
            found = dead_letters.list(connection, choice, limit)
            total = dead_letters.count(connection, choice)
    rows = [_told(letter) for letter in found]
    if as_json:
        print_json({"dead_letters": rows, "total": total})
        return
    columns = ("id", "batch", "line#", "custom id", "reason", "tries#", "state", "since", "owner")
    cells = [
        [
            row["id"],
            row["group"][:14],
            str(row["place"] + 1),
            row["name"],
            row["reason"],
            str(row["attempts"]),
            row["state"],
            moment(row["created"]),
            row["owner"],
        ]
        for row in rows
    ]
    print_table(f"{total} dead letters", columns, cells)


@command.command("show")
@click.argument("letter")
@project_argument
@home_option
@json_option
@verbose_option
def show(letter: str, path: Path | None, home: Path | None, as_json: bool) -> None:
    """Show one dead letter with what was asked: that is content."""
    with open_database(home, path) as database:
        from trimtab.journal import dead_letters

        with database.read() as connection:
            found = dead_letters.get(connection, letter)
    told = {**_told(found), "detail": found.detail, "payload": json.loads(found.payload)}
    if as_json:
        print_json(told)
        return
    told["payload"] = json.dumps(told["payload"], indent=2, ensure_ascii=False)
    print_facts(f"dead letter {found.id}", ((name, str(value)) for name, value in told.items()))


@command.command("replay", short_help="Let work be done again, never paid twice.")
@click.argument("letters", nargs=-1)
@choice_options
@click.option("--all", "everything", is_flag=True, help="Every dead letter.")
@click.option("--wait", is_flag=True, help="Until a server has done the work.")
@click.option("--project", "path", type=click.Path(path_type=Path), help="A project file.")
@home_option
@json_option
@verbose_option
def replay(
    letters: tuple[str, ...],
    batch: str | None,
    reason: str | None,
    owner: str | None,
    everything: bool,
    wait: bool,
    path: Path | None,
    home: Path | None,
    as_json: bool,
) -> None:
    """Let work be done again, under the key that it had: it is never billed twice.

    The server works it, at the priority of batches. Interrupted, the same command goes on.
    """
    from trimtab.gateway.offline import redrive

    choice = _wanted(letters, batch, reason, owner, everything)
    with open_database(home, path) as database, Screen() as screen:
        done = redrive.replay(
            database, choice, letters, lambda n, of: screen.advanced("replay", n, of)
        )
        if wait:
            _wait(database, done, screen)
        ended = redrive.ended(database, done.taken)
    told = {
        "taken": len(done.taken),
        "skipped": done.skipped,
        "answered": ended.answered,
        "dead_again": ended.dead,
        "waiting": ended.waiting,
    }
    _say(told, "replay", as_json)


@command.command("purge")
@click.argument("letters", nargs=-1)
@choice_options
@click.option("--all", "everything", is_flag=True, help="Every dead letter.")
@click.option("--project", "path", type=click.Path(path_type=Path), help="A project file.")
@home_option
@json_option
@verbose_option
def purge(
    letters: tuple[str, ...],
    batch: str | None,
    reason: str | None,
    owner: str | None,
    everything: bool,
    path: Path | None,
    home: Path | None,
    as_json: bool,
) -> None:
    """Delete dead letters for good, but those that are being replayed."""
    from trimtab.gateway.offline import redrive

    choice = _wanted(letters, batch, reason, owner, everything)
    with open_database(home, path) as database, Screen() as screen:
        done = redrive.purge(
            database, choice, letters, lambda n, of: screen.advanced("purge", n, of)
        )
    _say({"deleted": len(done.taken), "skipped": done.skipped}, "purge", as_json)


def _choice(batch: str | None, reason: str | None, owner: str | None) -> "Choice":
    from trimtab.journal.dead_letters import Choice

    return Choice(group=batch, reason=reason, owner=owner)


def _wanted(
    letters: tuple[str, ...],
    batch: str | None,
    reason: str | None,
    owner: str | None,
    everything: bool,
) -> "Choice":
    """What was chosen. Nothing named is a slip, and no wish for everything."""
    narrowed = any((batch, reason, owner))
    if sum((bool(letters), narrowed, everything)) != 1:
        raise click.UsageError("name letters, or narrow by --batch, --reason, --owner, or --all")
    return _choice(batch, reason, owner)


def _wait(database: "Database", done: "Taken", screen: Screen) -> None:
    from trimtab.gateway.offline import redrive

    while (left := redrive.ended(database, done.taken)).waiting:
        total = len(done.taken)
        screen.advanced("working", total - left.waiting, total, f"{left.dead} dead again")
        time.sleep(POLL_S)


def _say(told: dict[str, int], title: str, as_json: bool) -> None:
    if as_json:
        print_json(told)
    else:
        print_facts(title, ((name.replace("_", " "), str(n)) for name, n in told.items()))


def _told(letter: "DeadLetter") -> dict[str, Any]:
    from trimtab.store.clock import show

    return {
        "id": letter.id,
        "source": letter.source,
        "group": letter.group,
        "place": letter.place,
        "name": letter.name,
        "request_id": letter.request_id,
        "key_id": letter.key_id,
        "owner": letter.owner,
        "reason": letter.reason,
        "attempts": letter.attempts,
        "replays": letter.replays,
        "state": letter.state,
        "created": show(letter.created_us),
        "expires": show(letter.expires_us),
    }
