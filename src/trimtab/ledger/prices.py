"""What a version's tokens cost, by date. A price of 0 is a row too: nothing is free by omission."""

from collections.abc import Iterable, Mapping

from trimtab.canonical import short
from trimtab.errors import PriceMissing
from trimtab.ledger.money import Price
from trimtab.ledger.tables import READ_PRICES, database_now, prices
from trimtab.store.database import Connection
from trimtab.store.rows import insert_or_update

# Computing on one's own machine costs nothing a token, and that is stated, not left out.
OWN_MACHINE = Price(prompt_nano=0, completion_nano=0)


def set_price(
    connection: Connection, version: str, price: Price, from_us: int | None = None
) -> None:
    """State what a version's tokens cost from a time on (microseconds since the epoch), else now.

    Work is paid at the price of the moment it was admitted.
    """
    row = {
        "version_hash": version,
        "from_us": database_now(connection) if from_us is None else from_us,
        "prompt_nano": price.prompt_nano,
        "completion_nano": price.completion_nano,
    }
    insert_or_update(connection, prices, row, key=["version_hash", "from_us"])


def price_of(connection: Connection, version: str, at_us: int | None = None) -> Price:
    """The price that counts at a time, else now. Raises PriceMissing for a version without one."""
    found = prices_of(connection, [version], at_us)
    if version not in found:
        raise no_price(version)
    return found[version]


def prices_of(
    connection: Connection, versions: Iterable[str], at_us: int | None = None
) -> Mapping[str, Price]:
    """The prices that count at a time, else now; a version without one is left out."""
    at = database_now(connection) if at_us is None else at_us
    rows = READ_PRICES.rows(connection, versions=sorted(set(versions)), at_us=at)
    return {row.version_hash: Price(row.prompt_nano, row.completion_nano) for row in rows}


def no_price(version: str) -> PriceMissing:
    return PriceMissing(
        f"version {short(version)} has no price", hint="registering a version sets one"
    )
