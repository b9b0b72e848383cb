"""`trimtab prices`: list and set what tokens cost."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from trimtab.canonical import short
from trimtab.cli.options import (
    home_option,
    json_option,
    open_database,
    print_json,
    print_table,
    project_argument,
    project_if_any,
    verbose_option,
)

if TYPE_CHECKING:
    from trimtab.flows.prices import Stated


@click.group("prices")
def command() -> None:
    """List and set what tokens cost, by version and date."""


@command.command("list", short_help="List every price, and from when it counts.")
@project_argument
@home_option
@json_option
@verbose_option
def list_prices(path: Path | None, home: Path | None, as_json: bool) -> None:
    """List every price with the date from which it counts, in dollars for a million tokens."""
    from trimtab.flows.prices import table

    with open_database(home, path) as database, database.read() as connection:
        found = table(connection)
    if as_json:
        print_json({"prices": [_plain(each) for each in found]})
    elif found:
        columns = ("version", "name", "from", "counts", "prompt#", "completion#", "cached#")
        print_table("dollars for a million tokens", columns, [_cells(each) for each in found])
    else:
        click.echo("no prices here yet; a run registers versions with theirs: trimtab run")


@command.command("set", short_help="Set what tokens of NAME cost.")
@click.argument("name")
@project_argument
@click.option("--prompt", required=True, help="Dollars for a million tokens of prompts.")
@click.option("--completion", required=True, help="For a million that are generated or scored.")
@click.option("--cached", help="For a million of prompts that were computed before; as --prompt.")
@click.option("--from", "since", help="From a date (2027-01-01) or time on, UTC; now by default.")
@home_option
@json_option
@verbose_option
def set_price(
    name: str,
    path: Path | None,
    prompt: str,
    completion: str,
    cached: str | None,
    since: str | None,
    home: Path | None,
    as_json: bool,
) -> None:
    """Set what tokens of NAME cost: a deployment (its live version), a version or an encoder.

    Work is paid at the price of the moment it was admitted.
    """
    from trimtab.flows.prices import check_undecided, moment, state
    from trimtab.ledger.money import price_of_million

    price = price_of_million(prompt, completion, cached)
    from_us = None if since is None else moment(since)
    project = project_if_any(path)
    with open_database(home, path) as database, database.transaction() as connection:
        if project is not None:
            check_undecided(connection, project, name)
        stated = state(connection, name, price, from_us)
    if as_json:
        print_json(_plain(stated))
        return
    version, names, since, _, *costs = _cells(stated)
    what = f"version {version}" + (f" ({names})" if stated.names else "")
    told = ", ".join(
        f"{cost} {kind}"
        for kind, cost in zip(("prompt", "completion", "cached"), costs, strict=True)
    )
    click.echo(f"{what} from {since} on: {told}, for a million tokens")


def _plain(stated: "Stated") -> dict[str, object]:
    from trimtab.ledger.money import usd_of_million
    from trimtab.store.clock import show

    price = stated.price
    return {
        "version": stated.version,
        "names": list(stated.names),
        "from": show(stated.from_us),
        "counts": stated.state,
        "prompt_usd_per_million_tokens": usd_of_million(price.prompt_nano),
        "completion_usd_per_million_tokens": usd_of_million(price.completion_nano),
        "cached_usd_per_million_tokens": usd_of_million(price.cached),
    }


def _cells(stated: "Stated") -> list[str]:
    from trimtab.cli.options import moment
    from trimtab.ledger.money import show as dollars
    from trimtab.store.clock import show

    price = stated.price
    return [
        short(stated.version),
        ", ".join(stated.names) or "-",
        moment(show(stated.from_us)),
        stated.state,
        *(
            dollars(nano * 1_000_000)
            for nano in (price.prompt_nano, price.completion_nano, price.cached)
        ),
    ]
