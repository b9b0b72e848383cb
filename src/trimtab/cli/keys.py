"""`trimtab keys`: create, list and revoke API keys."""

from pathlib import Path

import click

from trimtab.cli.options import (
    home_option,
    json_option,
    moment,
    open_database,
    print_json,
    print_table,
    project_argument,
    verbose_option,
)


@click.group("keys")
def command() -> None:
    """Create, list and revoke the API keys of a home."""


@command.command("create")
@click.argument("name")
@project_argument
@click.option("--owner", help="Who the key is for; the name by default.")
@click.option("--limit-usd", help="What it may spend in total; no limit by default.")
@home_option
@json_option
@verbose_option
def create(
    name: str,
    path: Path | None,
    owner: str | None,
    limit_usd: str | None,
    home: Path | None,
    as_json: bool,
) -> None:
    """Make a key. It is shown once and stored as a hash alone."""
    from trimtab.gateway import keys

    with open_database(home, path) as database, database.transaction() as connection:
        made = keys.create(connection, name, owner or name, limit_usd)
    if as_json:
        print_json({"id": made.id, "name": name, "key": made.key})
    else:
        click.echo(made.key)
        click.echo("shown once; send it as: Authorization: Bearer KEY", err=True)


@command.command("list")
@project_argument
@home_option
@json_option
@verbose_option
def list_keys(path: Path | None, home: Path | None, as_json: bool) -> None:
    """List the keys with what they spent."""
    from trimtab.gateway import keys
    from trimtab.ledger.accounts import account
    from trimtab.ledger.money import usd
    from trimtab.store.clock import show

    with open_database(home, path) as database, database.read() as connection:
        found = [(key, account(connection, key.id)) for key in keys.list(connection)]
    rows = [
        {
            "id": key.id,
            "name": key.name,
            "owner": key.owner,
            "created": show(key.created_us),
            "revoked": show(key.revoked_us) if key.revoked_us else None,
            "spent_usd": usd(money.spent_nano),
            "limit_usd": None if money.limit_nano is None else usd(money.limit_nano),
        }
        for key, money in found
    ]
    if as_json:
        print_json({"keys": rows})
        return
    columns = ("id", "name", "owner", "created", "revoked", "spent", "limit")
    for row in rows:
        row |= {name: moment(str(row[name])) for name in ("created", "revoked") if row[name]}
    cells = [["-" if value is None else str(value) for value in row.values()] for row in rows]
    print_table("keys", columns, cells)


@command.command("revoke")
@click.argument("key_id")
@project_argument
@home_option
@verbose_option
def revoke(key_id: str, path: Path | None, home: Path | None) -> None:
    """Shut a key for good, from the next request on."""
    from trimtab.gateway import keys

    with open_database(home, path) as database, database.transaction() as connection:
        shut = keys.revoke(connection, key_id)
    click.echo(f"revoked {shut.id} ({shut.name})")
