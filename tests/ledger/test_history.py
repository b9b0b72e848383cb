"""The checker of histories finds what it is there to find."""

from collections.abc import Iterator

import pytest
from sqlalchemy import text

from tests.ledger import history
from tests.ledger.one import recover, reserve, settle
from trimtab.ledger.accounts import open_account, set_budget
from trimtab.ledger.reservation import Hold
from trimtab.store.database import Connection, Database


@pytest.fixture
def ledger(database: Database) -> Iterator[tuple[Connection, Hold]]:
    """A recorded ledger with one settled hold, one that a crash left, and one that is open."""
    with database.transaction() as connection:
        open_account(connection, "k", 100)
        set_budget(connection, "owner", "o", "day", 90)
    history.record(database)
    for request, expires in (("settled", 2**61), ("left", 1), ("open", 2**61)):
        with database.transaction() as connection:
            hold = reserve(connection, "k", request, 20, 5, expires, payers=["owner:o"])
            if request == "settled":
                settle(connection, hold.id, 7)
    with database.transaction() as connection:
        recover(connection, 2)
        yield connection, hold


def test_a_good_history_is_good(ledger: tuple[Connection, Hold]) -> None:
    connection, hold = ledger
    told = [{"request": "settled", "amount": 7}, {"hold": hold.id, "amount": 20}]
    verdict = history.check(connection, told)
    assert verdict.wrong == []
    assert verdict.states >= 8


@pytest.mark.parametrize(
    ("fault", "found"),
    [
        ("UPDATE budgets SET spent_nano = spent_nano + 1", "said"),
        ("UPDATE budgets SET held_nano = 0", "said"),
        ("UPDATE budgets SET limit_nano = NULL, spent_nano = spent_nano - 5", "said"),
        ("UPDATE holds SET settled_nano = 8 WHERE request_id = 'settled'", "settled twice"),
        ("UPDATE holds SET state = 'open' WHERE request_id = 'settled'", "opened again"),
        ("DELETE FROM spends WHERE request_id = 'settled'", "acknowledged"),
        ("DELETE FROM history WHERE name = '{hold}'", "acknowledged"),
    ],
)
def test_a_planted_fault_is_found(ledger: tuple[Connection, Hold], fault: str, found: str) -> None:
    connection, hold = ledger
    connection.execute(text(fault.format(hold=hold.id)))
    told = [{"request": "settled", "amount": 7}, {"hold": hold.id, "amount": 20}]
    wrong = history.check(connection, told).wrong
    assert any(found in line for line in wrong), wrong


def test_a_limit_that_was_passed_for_a_moment_is_found(ledger: tuple[Connection, Hold]) -> None:
    connection, _ = ledger
    passed = (
        "INSERT INTO history (what, name, spent, held, most, window_) "
        "SELECT 'budget', name, 81, 20, most, window_ FROM history WHERE name = 'key:k|total' "
        "ORDER BY n DESC LIMIT 1"
    )
    connection.execute(text(passed))
    wrong = history.check(connection).wrong
    assert any("81 spent and 20 held of 100" in line for line in wrong), wrong
