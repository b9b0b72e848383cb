"""What a loop spends by itself is in the ledger, once, and shuts its project's budget."""

import pytest

from trimtab.ledger.accounts import budgets_of, set_budget
from trimtab.ledger.own import spend, spent
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
        assert budget(connection) == (150, None)
        assert [row.amount_nano for row in connection.execute(spends.select())] == [60, 50, 50]
