import pytest

from trimtab.errors import LedgerError
from trimtab.ledger.money import Price
from trimtab.ledger.prices import price_of, set_price
from trimtab.store.database import Database

VERSION = "a" * 64


def test_a_version_has_the_price_it_was_given_last(database: Database) -> None:
    with database.transaction() as connection:
        set_price(connection, VERSION, Price(0, 0))
        assert price_of(connection, VERSION) == Price(0, 0)
        set_price(connection, VERSION, Price(10, 30))
        assert price_of(connection, VERSION) == Price(10, 30)


def test_a_version_without_a_price_is_not_free(database: Database) -> None:
    with database.read() as connection, pytest.raises(LedgerError, match="no price"):
        price_of(connection, VERSION)
