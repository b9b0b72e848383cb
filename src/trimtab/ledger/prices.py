"""What a version's tokens cost, by date. A price of 0 is a row too: nothing is free by omission."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from trimtab.canonical import short
from trimtab.errors import PriceMissing
from trimtab.ledger.money import Price
from trimtab.ledger.tables import READ_PRICES, database_now, prices
from trimtab.store.database import Connection
from trimtab.store.rows import insert_or_update

# Computing on one's own machine costs nothing a token, and that is stated, not left out.
OWN_MACHINE = Price(prompt_nano=0, completion_nano=0)


@dataclass(frozen=True, slots=True)
class Dated:
    """A price of a version and the time from which it counts, in microseconds since the epoch."""

    version: str
    from_us: int
    price: Price


def set_price(
    connection: Connection, version: str, price: Price, from_us: int | None = None
) -> None:
    """State what a version's tokens cost from a time on (microseconds since the epoch), else now.

    Work is paid at the price of the moment it was admitted.
    """
    row = {
        "version_hash": version,
        "from_us": database_now(connection) if from_us is None else from_us,
        **asdict(price),
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
    return {row.version_hash: _price(row) for row in rows}


def history(connection: Connection) -> Sequence[Dated]:
    """Every price that was stated, by version, the oldest first."""
    ordered = prices.select().order_by(prices.c.version_hash, prices.c.from_us)
    rows = connection.execute(ordered)
    return tuple(Dated(row.version_hash, row.from_us, _price(row)) for row in rows)


def carry(connection: Connection, version: str, to: str) -> None:
    """State for another version what one costs now and is to cost later, where it has a price."""
    now = database_now(connection)
    mine = [each for each in history(connection) if each.version == version]
    begun = [each for each in mine if each.from_us <= now][-1:]
    for dated in (*begun, *(each for each in mine if each.from_us > now)):
        set_price(connection, to, dated.price, max(now, dated.from_us))


def _price(row: Any) -> Price:
    return Price(row.prompt_nano, row.completion_nano, row.cached_nano)


def no_price(version: str) -> PriceMissing:
    return PriceMissing(
        f"version {short(version)} has no price", hint="set one: trimtab prices set"
    )
