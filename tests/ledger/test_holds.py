import time

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import func, select

from tests.ledger.one import recover, reserve, settle
from tests.processes import all_running
from trimtab.errors import BudgetExceeded, LedgerError, StoreError
from trimtab.ledger.accounts import Budget, account, open_account
from trimtab.ledger.reservation import any_open
from trimtab.ledger.tables import budgets, holds, spends
from trimtab.store.database import Connection, Database

NEVER = 2**62


def opened(database: Database, limit: int | None, key: str = "key") -> None:
    with database.transaction() as connection:
        open_account(connection, key, limit)


def now(database: Database, key: str = "key") -> Budget:
    with database.read() as connection:
        return account(connection, key)


def check(connection: Connection) -> None:
    """Every budget is what its holds and spends say, and within its limit."""
    for row in connection.execute(budgets.select()):
        mine = holds.c.charged.contains(f"{row.account}|{row.period}")
        held = select(func.coalesce(func.sum(holds.c.amount_nano), 0)).where(
            mine, holds.c.state == "open"
        )
        spent = select(func.coalesce(func.sum(spends.c.amount_nano), 0)).where(
            spends.c.request_id.in_(select(holds.c.request_id).where(mine))
        )
        assert connection.execute(held).scalar() == row.held_nano
        assert connection.execute(spent).scalar() == row.spent_nano
        assert row.limit_nano is None or row.spent_nano + row.held_nano <= row.limit_nano


def test_a_hold_is_set_aside_and_the_rest_comes_back(database: Database) -> None:
    opened(database, 100)
    with database.transaction() as connection:
        assert not any_open(connection)
        hold = reserve(connection, "key", "r1", 60, 10, NEVER, owner="gateway 0")
        assert any_open(connection)
    assert (now(database).spent_nano, now(database).held_nano, now(database).left_nano) == (
        0,
        60,
        40,
    )
    with database.transaction() as connection:
        closed = settle(connection, hold.id, 25)
        check(connection)
        assert not any_open(connection)
    assert (closed.state, closed.settled_nano, closed.estimated) == ("settled", 25, False)
    assert (now(database).spent_nano, now(database).held_nano) == (25, 0)


def test_the_limit_holds_to_the_last_nano_dollar(database: Database) -> None:
    opened(database, 100)
    with database.transaction() as connection:
        reserve(connection, "key", "r1", 100, 0, NEVER)
    with pytest.raises(BudgetExceeded) as caught, database.transaction() as connection:
        reserve(connection, "key", "r2", 1, 0, NEVER)
    assert "are left" in caught.value.message
    with database.transaction() as connection:
        reserve(connection, "key", "r3", 0, 0, NEVER)
        check(connection)


def test_without_a_limit_everything_is_covered(database: Database) -> None:
    opened(database, None)
    with database.transaction() as connection:
        reserve(connection, "key", "r1", 10**18, 0, NEVER)
    assert now(database).left_nano is None


def test_asking_twice_reserves_once(database: Database) -> None:
    opened(database, 100)
    with database.transaction() as connection:
        first = reserve(connection, "key", "r1", 60, 0, NEVER)
        assert reserve(connection, "key", "r1", 60, 0, NEVER) == first
        with pytest.raises(LedgerError, match="another"):
            reserve(connection, "key", "r1", 61, 0, NEVER)
        check(connection)


def test_settling_twice_spends_once(database: Database) -> None:
    opened(database, 100)
    with database.transaction() as connection:
        hold = reserve(connection, "key", "r1", 60, 0, NEVER)
        settle(connection, hold.id, 25)
        assert settle(connection, hold.id, 60).settled_nano == 25
        check(connection)
    assert now(database).spent_nano == 25


@pytest.mark.parametrize("amount", [-1, 61])
def test_no_more_than_the_hold_can_be_settled(database: Database, amount: int) -> None:
    opened(database, 100)
    with database.transaction() as connection:
        hold = reserve(connection, "key", "r1", 60, 0, NEVER)
        with pytest.raises(LedgerError):
            settle(connection, hold.id, amount)
        with pytest.raises(LedgerError):
            settle(connection, "no such hold", 1)


def test_what_a_crash_left_settles_to_its_floor_and_says_so(database: Database) -> None:
    opened(database, 100)
    with database.transaction() as connection:
        left = reserve(connection, "key", "left", 60, 10, expires_us=1000)
        young = reserve(connection, "key", "young", 20, 5, expires_us=2000)
    with database.transaction() as connection:
        (closed,) = recover(connection, now=1000)
        assert recover(connection, now=1000) == ()
        check(connection)
    assert (closed.id, closed.state, closed.settled_nano) == (left.id, "expired", 10)
    assert closed.estimated
    with database.transaction() as connection:
        assert settle(connection, left.id, 60) == closed  # the answer that came too late
        assert settle(connection, young.id, 20).state == "settled"
    assert (now(database).spent_nano, now(database).held_nano) == (30, 0)


def test_an_unknown_key_and_an_impossible_floor_are_refused(database: Database) -> None:
    opened(database, 100)
    with database.transaction() as connection:
        with pytest.raises(LedgerError, match="no account"):
            reserve(connection, "stranger", "r1", 1, 0, NEVER)
        with pytest.raises(LedgerError, match="floor"):
            reserve(connection, "key", "r1", 1, 2, NEVER)


def test_the_database_itself_keeps_the_limit(database: Database) -> None:
    opened(database, 100)
    with pytest.raises(StoreError), database.transaction() as connection:
        connection.execute(budgets.update().values(spent_nano=101))


STEPS = st.lists(
    st.tuples(st.sampled_from(["reserve", "settle", "recover"]), st.integers(0, 60)), max_size=25
)


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(limit=st.integers(0, 150), steps=STEPS)
def test_any_history_stays_within_the_limit(
    database: Database, limit: int, steps: list[tuple[str, int]]
) -> None:
    with database.transaction(durable=False) as connection:
        for table in (spends, holds, budgets):
            connection.execute(table.delete())
        open_account(connection, "key", limit)
    for number, (action, amount) in enumerate(steps):
        with database.transaction(durable=False) as connection:
            act(connection, number, action, amount)
            check(connection)


def act(connection: Connection, number: int, action: str, amount: int) -> None:
    if action == "recover":
        recover(connection, now=number - amount)
        return
    if action == "reserve":
        before = account(connection, "key")
        try:
            reserve(connection, "key", f"r{number}", amount, amount // 3, expires_us=number)
        except BudgetExceeded:
            assert before.left_nano is not None
            assert amount > before.left_nano
        return
    for hold in connection.execute(holds.select().where(holds.c.state == "open")).fetchall():
        settle(connection, hold.id, min(amount, hold.amount_nano))


def test_processes_that_spend_at_once_and_die_never_overspend(
    database: Database, database_url: str
) -> None:
    limit = 8_000
    opened(database, limit)
    spenders = [[database_url, "key", str(number)] for number in range(3)]
    with all_running("tests.ledger.spender", spenders) as processes:
        while now(database).spent_nano < limit // 2:
            time.sleep(0.02)
            with database.read() as connection:
                check(connection)
        processes[0].kill()
        while any(process.poll() is None for process in processes):
            time.sleep(0.02)
            with database.read() as connection:
                check(connection)
        assert [process.wait() for process in processes][1:] == [0, 0]
    with database.transaction() as connection:
        recover(connection, NEVER)
        check(connection)
    assert now(database).held_nano == 0
    assert limit - 200 < now(database).spent_nano <= limit
