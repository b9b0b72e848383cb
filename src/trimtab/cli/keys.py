"""`trimtab keys`: create, list, rotate and revoke API keys, and set what they may spend."""

import re
from pathlib import Path
from typing import TYPE_CHECKING, cast

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

if TYPE_CHECKING:
    from trimtab.gateway.keys import Created, Key
    from trimtab.ledger.accounts import Budget, Level, Period

PERIOD = click.Choice(["day", "month", "total"])
_UNITS_S = {"s": 1, "m": 60, "h": 3600, "d": 86_400}


class Duration(click.ParamType[int]):
    """Seconds, written as 90s, 30m, 24h or 7d."""

    name = "duration"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> int:
        match = re.fullmatch(r"(\d{1,6})([smhd])", str(value))
        if match is None:
            self.fail(f"'{value}' is no duration; e.g. 90s, 30m, 24h or 7d", param, ctx)
        return int(match[1]) * _UNITS_S[match[2]]


@click.group("keys")
def command() -> None:
    """Create, list, rotate and revoke the API keys of a home, and set budgets."""


@command.command("create")
@click.argument("name")
@project_argument
@click.option("--owner", help="Who the key is for; the name by default.")
@click.option("--limit-usd", help="What it may spend; no limit by default.")
@click.option("--per", type=PERIOD, default="total", show_default=True, help="For how long.")
@click.option("--scope", "scopes", multiple=True, help="What it may do; again for more.")
@click.option("--expires", type=Duration(), help="When it ends: 90s, 30m, 24h, 7d; never else.")
@click.option("--requests-per-minute", type=int, help="No limit by default.")
@click.option("--tokens-per-minute", type=int, help="No limit by default.")
@click.option("--dry-run", is_flag=True, help="Tell what the rate limits would refuse, only.")
@home_option
@json_option
@verbose_option
def create(
    name: str,
    path: Path | None,
    owner: str | None,
    limit_usd: str | None,
    per: str,
    scopes: tuple[str, ...],
    expires: int | None,
    requests_per_minute: int | None,
    tokens_per_minute: int | None,
    dry_run: bool,
    home: Path | None,
    as_json: bool,
) -> None:
    """Make a key. It is shown once and stored as a hash alone."""
    with open_database(home, path) as database:
        from trimtab.gateway import keys
        from trimtab.store.clock import now_us

        with database.transaction() as connection:
            made = keys.create(
                connection,
                name,
                owner or name,
                limit_usd,
                period=cast("Period", per),
                scopes=scopes or keys.USUAL,
                expires_us=None if expires is None else now_us() + expires * 1_000_000,
                limits=keys.Limits(requests_per_minute, tokens_per_minute, dry_run),
            )
    _show(made, name, as_json)


@command.command("list")
@project_argument
@home_option
@json_option
@verbose_option
def list_keys(path: Path | None, home: Path | None, as_json: bool) -> None:
    """List the keys with what they may do, and what they spent in total."""
    with open_database(home, path) as database:
        from trimtab.gateway import keys
        from trimtab.ledger.accounts import account

        with database.read() as connection:
            found = [(key, account(connection, key.id)) for key in keys.list(connection)]
    if as_json:
        print_json({"keys": [_plain(key, total) for key, total in found]})
    elif found:
        columns = ("id", "name", "owner", "scopes", "created", "expires", "revoked")
        cells = [_cells(key, total) for key, total in found]
        print_table("keys", (*columns, "spent#", "limit#"), cells)
    else:
        click.echo("no keys here yet; make one: trimtab keys create NAME")


def _plain(key: "Key", total: "Budget") -> dict[str, object]:
    from trimtab.ledger.money import usd
    from trimtab.store.clock import show

    return {
        "id": key.id,
        "name": key.name,
        "owner": key.owner,
        "scopes": " ".join(sorted(key.scopes)),
        "created": show(key.created_us),
        "expires": show(key.expires_us) if key.expires_us else None,
        "revoked": show(key.revoked_us) if key.revoked_us else None,
        "spent_usd": usd(total.spent_nano),
        "limit_usd": None if total.limit_nano is None else usd(total.limit_nano),
    }


def _cells(key: "Key", total: "Budget") -> list[str]:
    from trimtab.ledger.money import show as dollars
    from trimtab.store.clock import show

    return [
        key.id,
        key.name,
        key.owner,
        " ".join(sorted(key.scopes)),
        *(
            moment(show(at)) if at else "-"
            for at in (key.created_us, key.expires_us, key.revoked_us)
        ),
        dollars(total.spent_nano),
        "-" if total.limit_nano is None else dollars(total.limit_nano),
    ]


@command.command("rotate")
@click.argument("key_id")
@project_argument
@click.option("--grace", type=Duration(), default="24h", show_default=True)
@home_option
@json_option
@verbose_option
def rotate(key_id: str, path: Path | None, grace: int, home: Path | None, as_json: bool) -> None:
    """Give a key a new secret; the old one opens for the grace yet. Account and limits stay."""
    with open_database(home, path) as database:
        from trimtab.gateway import keys

        with database.transaction() as connection:
            made = keys.rotate(connection, key_id, grace * 1_000_000)
            name = keys.get(connection, key_id).name
    _show(made, name, as_json)


@command.command("revoke")
@click.argument("key_id")
@project_argument
@home_option
@verbose_option
def revoke(key_id: str, path: Path | None, home: Path | None) -> None:
    """Shut a key for good, from the next request on."""
    with open_database(home, path) as database:
        from trimtab.gateway import keys

        with database.transaction() as connection:
            shut = keys.revoke(connection, key_id)
    click.echo(f"revoked {shut.id} ({shut.name})")


@command.command("budget", short_help="Set or lift what a key, an owner or a project may spend.")
@click.argument("level", type=click.Choice(["key", "owner", "project"]))
@click.argument("name")
@click.argument("limit_usd", metavar="USD|none")
@project_argument
@click.option("--per", type=PERIOD, default="month", show_default=True)
@home_option
@verbose_option
def budget(
    level: str, name: str, limit_usd: str, path: Path | None, per: str, home: Path | None
) -> None:
    """Set what a key, an owner or a project may spend, or lift it with 'none'."""
    with open_database(home, path) as database:
        from trimtab.gateway import keys
        from trimtab.ledger.accounts import set_budget
        from trimtab.ledger.money import nano, show

        limit = None if limit_usd == "none" else nano(limit_usd)
        with database.transaction() as connection:
            if level == "key":
                keys.get(connection, name)
            found = set_budget(connection, cast("Level", level), name, cast("Period", per), limit)
    most = "no limit" if found.limit_nano is None else show(found.limit_nano)
    click.echo(f"{found.account}, {found.period}: {most}, {show(found.spent_nano)} spent")


def _show(made: "Created", name: str, as_json: bool) -> None:
    if as_json:
        print_json({"id": made.id, "name": name, "key": made.key})
    else:
        click.echo(made.key)
        click.echo("shown once; send it as: Authorization: Bearer KEY", err=True)
