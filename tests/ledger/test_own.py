"""What a loop spends by itself is in the ledger, once, and shuts its project's budget."""

from datetime import UTC, datetime

import pytest

from trimtab.ledger.accounts import Budget, budgets_of, set_budget
from trimtab.ledger.own import spend, spend_in_all, spent
from trimtab.ledger.tables import spends
from trimtab.store.database import Connection, Database


def budget(connection: Connection) -> tuple[int, int | None]:
    [found] = budgets_of(connection, ["project:desk"])
    return found.spent_nano, found.left_nano


def test_spending_is_noted_once_and_told_by_kind(database: Database) -> None:
    with database.transaction() as connection:
        assert spend(connection, "desk", "a", 30, "training")
        assert not spend(connection, "desk", "a", 30, "training")
        assert spend(connection, "desk", "b", 12, "training")
        assert spend(connection, "desk", "c", 5, "shadow")
        assert spend(connection, "other", "d", 7, "shadow")
        assert spent(connection, "desk") == {"training": 42, "shadow": 5}
        assert spent(connection, "nobody") == {}


def test_a_projects_budget_counts_it_and_is_shut_by_what_passes_it(
    database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    with database.transaction() as connection:
        set_budget(connection, "project", "desk", "month", 100)
        spend(connection, "desk", "a", 60, "training")
        assert budget(connection) == (60, 40)
        assert "50 % of the month budget" in caplog.text
        spend(connection, "desk", "b", 50, "training")
        assert budget(connection) == (100, 0)
        # The ledger has all of it.
        assert spent(connection, "desk") == {"training": 110}
        set_budget(connection, "project", "desk", "month", None)
        spend(connection, "desk", "c", 50, "training")
        assert budget(connection) == (160, None)
        assert [row.amount_nano for row in connection.execute(spends.select())] == [60, 50, 50]


def test_work_that_goes_on_is_counted_as_far_as_it_came(database: Database) -> None:
    with database.transaction() as connection:
        set_budget(connection, "project", "desk", "total", 100)
        for total in (0, 30, 30, 41, 42, 10):
            spend_in_all(connection, "desk", "training/r", total, "training")
        # Another project that comes upon the same run has it for nothing.
        spend_in_all(connection, "other", "training/r", 42, "training")
        assert spent(connection, "desk") == {"training": 42}
        assert spent(connection, "other") == {}
        assert budget(connection) == (42, 58)


def test_a_higher_limit_covers_first_what_was_spent_beyond_the_one_before(
    database: Database,
) -> None:
    with database.transaction() as connection:
        set_budget(connection, "project", "desk", "total", 5)
        spend(connection, "desk", "a", 8, "training")
        assert budget(connection) == (5, 0)
        set_budget(connection, "project", "desk", "total", 6)
        assert budget(connection) == (6, 0)
        set_budget(connection, "project", "desk", "total", 10)
        assert budget(connection) == (8, 2)
        spend(connection, "desk", "b", 1, "training")
        assert budget(connection) == (9, 1)
        # A new month owes nothing for the last one.
        set_budget(connection, "project", "desk", "month", 5)
        spend(connection, "desk", "c", 8, "training")
        [month] = [b for b in budgets_of(connection, ["project:desk"]) if b.period == "month"]
        assert (month.spent_nano, month.beyond_nano) == (5, 3)
        month.roll(month_after_us(month.period_window))
        assert month.left_nano == 5


def test_what_is_freed_of_a_hold_pays_what_is_beyond_first() -> None:
    shut = Budget("project:desk", "total", 5, 0, held_nano=2)
    shut.charge(6)
    assert (shut.spent_nano, shut.beyond_nano, shut.left_nano) == (3, 3, 0)
    shut.held_nano = 0
    assert shut.left_nano == 0
    shut.limit(10)
    assert (shut.spent_nano, shut.beyond_nano, shut.left_nano) == (6, 0, 4)


def test_what_is_beyond_adds_up_and_a_limit_counts_what_is_held() -> None:
    shut = Budget("project:desk", "total", 5, 0)
    for amount in (6, 2):
        shut.charge(amount)
    assert (shut.spent_nano, shut.beyond_nano) == (5, 3)
    shut.held_nano = 3
    shut.limit(9)
    assert (shut.spent_nano, shut.beyond_nano, shut.left_nano) == (6, 2, 0)


def month_after_us(window: int) -> int:
    year, month = divmod(window + 1, 12)
    return int(datetime(year, month + 1, 1, tzinfo=UTC).timestamp()) * 1_000_000
