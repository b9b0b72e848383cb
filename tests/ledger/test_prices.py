import pytest

from trimtab.errors import LedgerError
from trimtab.ledger.money import Price
from trimtab.ledger.prices import Dated, carry, history, price_of, prices_of, set_price
from trimtab.store.database import Database

VERSION = "a" * 64


def test_a_version_has_the_price_it_was_given_last(database: Database) -> None:
    with database.transaction() as connection:
        set_price(connection, VERSION, Price(0, 0))
        assert price_of(connection, VERSION) == Price(0, 0)
        set_price(connection, VERSION, Price(10, 30))
        assert price_of(connection, VERSION) == Price(10, 30)


def test_a_version_without_a_price_is_not_free(database: Database) -> None:
    with database.read() as connection, pytest.raises(LedgerError) as caught:
        price_of(connection, VERSION)
    assert caught.value.message == f"version {VERSION[:12]} has no price"
    assert caught.value.hint == "set one: trimtab prices set"


def test_a_price_counts_from_its_date_on(database: Database) -> None:
    with database.transaction() as connection:
        set_price(connection, VERSION, Price(1, 1), from_us=1_000)
        set_price(connection, VERSION, Price(3, 3), from_us=3_000)
        set_price(connection, VERSION, Price(2, 2), from_us=2_000)
        at = [1_000, 1_999, 2_000, 2_999, 3_000, 9_000]
        found = [price_of(connection, VERSION, time).prompt_nano for time in at]
        assert found == [1, 1, 2, 2, 3, 3]
        assert prices_of(connection, [VERSION, "b" * 64], 999) == {}


def test_what_a_version_costs_goes_on_with_the_next_one(database: Database) -> None:
    other, later = "b" * 64, 2**60
    with database.transaction() as connection:
        carry(connection, VERSION, other)
        assert history(connection) == ()
        set_price(connection, VERSION, Price(1, 1), from_us=1)
        set_price(connection, VERSION, Price(2, 3, 1), from_us=2)
        set_price(connection, VERSION, Price(9, 9, 0), from_us=later)
        carry(connection, VERSION, other)
        now, then = [each for each in history(connection) if each.version == other]
    assert (now.price, 2 < now.from_us < later) == (Price(2, 3, 1), True)
    assert then == Dated(other, later, Price(9, 9, 0))


def test_one_price_goes_on_too_and_all_are_told_by_version_and_date(database: Database) -> None:
    others = ["c" * 64, "b" * 64]
    with database.transaction() as connection:
        set_price(connection, others[0], Price(1, 2), from_us=1)
        carry(connection, others[0], others[1])
        assert price_of(connection, others[1]) == Price(1, 2)
        set_price(connection, VERSION, Price(3, 3), from_us=2**60)
        set_price(connection, VERSION, Price(4, 4), from_us=2**59)
        told = [(each.version, each.price.prompt_nano) for each in history(connection)]
    assert told == [(VERSION, 4), (VERSION, 3), (others[1], 1), (others[0], 1)]
