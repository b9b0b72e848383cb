"""What a version's tokens cost. A price of 0 is a row too: nothing is free by omission."""

from trimtab.canonical import short
from trimtab.errors import LedgerError
from trimtab.ledger.money import Price
from trimtab.ledger.tables import prices
from trimtab.store.clock import now_us
from trimtab.store.database import Connection
from trimtab.store.rows import insert_or_update


def set_price(connection: Connection, version: str, price: Price) -> None:
    """State what a version's tokens cost from now on."""
    row = {
        "version_hash": version,
        "prompt_nano": price.prompt_nano,
        "completion_nano": price.completion_nano,
        "created_us": now_us(),
    }
    insert_or_update(connection, prices, row, key=["version_hash"])


def price_of(connection: Connection, version: str) -> Price:
    """Raises LedgerError for a version without a price."""
    row = connection.execute(prices.select().where(prices.c.version_hash == version)).first()
    if row is None:
        raise LedgerError(
            f"version {short(version)} has no price", hint="registering a version sets one"
        )
    return Price(row.prompt_nano, row.completion_nano)
