"""Budgets on three levels and in three periods: any history stays within every limit."""

import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, rule

from tests.databases import sqlite_database
from tests.ledger.one import CLOCKED, recover, reserve, settle
from tests.ledger.test_holds import check
from tests.processes import all_running
from trimtab.errors import BudgetExceeded, LedgerError, UserError
from trimtab.ledger.accounts import (
    PERIODS,
    Budget,
    Level,
    Period,
    account,
    budgets_of,
    open_account,
    set_budget,
    window_of,
)
from trimtab.ledger.reservation import Wanted, beat, get, of_requests
from trimtab.ledger.tables import spends
from trimtab.ledger.till import Till
from trimtab.store.database import Database

# Later than any test looks; a hold with `NEVER_US` would be nobody's to recover.
NEVER = 2**61
DAY_US = 86_400 * 1_000_000
NOON = 20_000 * DAY_US + DAY_US // 2
ACCOUNTS = ("key:k", "owner:o", "project:p")


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The database's time, which a test may change."""
    now = [NOON]
    for module in CLOCKED:
        monkeypatch.setattr(f"{module}.database_now", lambda connection: now[0])
    return now


def wanted(request: str, fixed: int, unit: int = 0, units: int = 0, least: int = 0) -> Wanted:
    return Wanted("k", request, ACCOUNTS, fixed, 0, NEVER, unit=unit, units=units, least=least)


def test_a_hold_that_is_taken_back_was_never_made(database: Database) -> None:
    with database.transaction() as connection:
        open_account(connection, "k", 100)
        till = Till(connection, ACCOUNTS)
        hold, _ = till.reserve(wanted("r1", 60))
        fleeting, _ = till.reserve(wanted("r2", 30))
        till.void(fleeting.id)
        till.write()
        check(connection)
        assert account(connection, "k").held_nano == 60
    with database.transaction() as connection:
        till = Till(connection, ACCOUNTS, [hold.id])
        till.void(hold.id)
        again, _ = till.reserve(wanted("r1", 100))
        till.write()
        check(connection)
        assert account(connection, "k").held_nano == 100
    with database.transaction() as connection:
        till = Till(connection, ACCOUNTS, [again.id])
        till.settle(again.id, 40)
        till.void(again.id)
        till.write()
        check(connection)
        found = account(connection, "k")
        assert (found.spent_nano, found.held_nano) == (40, 0)
        with pytest.raises(LedgerError, match="no hold"):
            Till(connection, ACCOUNTS, [hold.id]).void(hold.id)


def test_a_reservation_is_clamped_to_what_the_tightest_budget_covers(database: Database) -> None:
    with database.transaction() as connection:
        open_account(connection, "k", 1_000)
        set_budget(connection, "owner", "o", "month", 95)
        set_budget(connection, "project", "p", "day", 500)
        till = Till(connection, ACCOUNTS)
        hold, units = till.reserve(wanted("r1", 10, unit=7, units=50, least=1))
        assert (units, hold.amount_nano) == (12, 10 + 12 * 7)
        with pytest.raises(BudgetExceeded, match=r"owner o: .* are left this month"):
            till.reserve(wanted("r2", 10, unit=7, units=50, least=1))
        till.settle(hold.id, 40)
        till.write()
        check(connection)
        found = {budget.account: budget for budget in budgets_of(connection, ACCOUNTS)}
        assert [found[name].spent_nano for name in ACCOUNTS] == [40, 40, 40]
        assert [found[name].held_nano for name in ACCOUNTS] == [0, 0, 0]
        assert [row.kind for row in connection.execute(spends.select())] == ["request"]


def test_a_hold_is_exchanged_for_another_tier(database: Database) -> None:
    with database.transaction() as connection:
        open_account(connection, "k", 100)
        till = Till(connection, ACCOUNTS)
        hold, _ = till.reserve(wanted("r1", 80))
        with pytest.raises(BudgetExceeded):
            till.exchange(hold.id, wanted("r1", 101))
        assert till.exchange(hold.id, wanted("r1", 60))[0].amount_nano == 60
        till.write()
        assert account(connection, "k").held_nano == 60
        settle(connection, hold.id, 60)
        with pytest.raises(LedgerError, match="closed"):
            Till(connection, ACCOUNTS, [hold.id]).exchange(hold.id, wanted("r1", 1))
        check(connection)


def test_what_was_exchanged_is_what_is_kept(database: Database) -> None:
    """The new amount, its floor and its units, in the database and in every budget."""
    with database.transaction() as connection:
        open_account(connection, "k", 1_000)
        reserve(connection, "k", "r0", 100, 0, NEVER)
        till = Till(connection, ACCOUNTS)
        hold, _ = till.reserve(wanted("r1", 80))
        till.write()
        assert (hold.estimated, hold.settled_nano) == (False, None)
        till = Till(connection, ACCOUNTS, [hold.id])
        with pytest.raises(BudgetExceeded):
            till.exchange(hold.id, wanted("r1", 901))
        assert till.left(ACCOUNTS) == 1_000 - 180
        other = replace(wanted("r1", 10, unit=7, units=5, least=1), floor=4)
        exchanged, units = till.exchange(hold.id, other)
        till.write()
        assert (units, exchanged.amount_nano, exchanged.floor_nano) == (5, 45, 4)
        assert get(connection, hold.id) == exchanged
        assert account(connection, "k").held_nano == 145
        check(connection)
        till = Till(connection, ACCOUNTS, [hold.id])
        till.exchange(hold.id, other)
        till.void(hold.id)
        till.write()
        check(connection)
        assert of_requests(connection, ["r1"]) == ()
        [kept] = of_requests(connection, ["r0", "r1", "nobody"])
        assert kept.request_id == "r0"


def test_a_limit_counts_whatever_stands_before_it(database: Database) -> None:
    """An unlimited key of an owner with a limit; names are free text."""
    accounts = ("key:k", "owner:a|b c:d")
    with database.transaction() as connection:
        open_account(connection, "k", None)
        set_budget(connection, "owner", "a|b c:d", "total", 50)
        till = Till(connection, accounts)
        assert till.left([]) is None
        asked = Wanted("k", "r1", accounts, 40, 0, NEVER, unit=7, units=5, least=3)
        with pytest.raises(BudgetExceeded) as caught:
            till.reserve(asked)
        assert caught.value.message == (
            "owner a|b c:d: $0.000000061 are needed and $0.00000005 are left in total"
        )
        assert caught.value.hint == "ask for fewer tokens, or for a higher budget"
        hold, units = till.reserve(replace(asked, least=1))
        till.write()
        assert (units, hold.charged) == (1, (("key:k", "total"), ("owner:a|b c:d", "total")))
        assert get(connection, hold.id) == hold


def test_what_was_spent_is_named_by_its_kind(database: Database) -> None:
    with database.transaction() as connection:
        open_account(connection, "k", None)
        holds = [reserve(connection, "k", f"r{n}", 9, 2, NEVER, owner="me") for n in range(3)]
        assert {hold.owner for hold in holds} == {"me"}
        assert reserve(connection, "k", "r3", 9, 2, NEVER).owner == ""
        settle(connection, holds[0].id, 1)
        settle(connection, holds[1].id, 1, "shadow")
        recover(connection, NEVER)
        found = connection.execute(spends.select().order_by(spends.c.request_id))
        kinds = ["request", "shadow", "recovered", "recovered"]
        assert [row.kind for row in found] == kinds


def test_refusals_say_what_is_wrong_and_what_to_do(database: Database) -> None:
    with database.transaction() as connection:
        assert open_account(connection, "k", 100) == Budget("key:k", "total", 100, 0)
        hold = reserve(connection, "k", "r1", 60, 0, NEVER)
        till = Till(connection, ACCOUNTS, [hold.id])
        refused = "hold {}: 61 of 60 nano-dollars cannot be settled"
        with pytest.raises(LedgerError, match=refused.format(hold.id)):
            till.settle(hold.id, 61)
        till.settle(hold.id, 60)
        with pytest.raises(LedgerError) as caught:
            till.exchange(hold.id, wanted("r1", 1))
        assert caught.value.hint == "send the request again"
        for stranger in (
            lambda: account(connection, "x"),
            lambda: till.reserve(Wanted("x", "r", ("key:x",), 1, 0, NEVER)),
        ):
            with pytest.raises(LedgerError) as caught:
                stranger()
            assert caught.value.message == "key x has no account"
            assert caught.value.hint == "make one: trimtab keys create NAME"
        with pytest.raises(UserError) as refusal:
            set_budget(connection, "key", "k", "total", 1)
        assert refusal.value.hint == "set no less, or revoke the key"
        assert set_budget(connection, "key", "k", "total", 99).warned == 0


def test_a_crash_settles_to_what_the_journal_heard_last(database: Database) -> None:
    with database.transaction() as connection:
        open_account(connection, "k", 100)
        hold = reserve(connection, "k", "r1", 80, 10, expires_us=1)
        for floor in (35, 20, 81):  # never back, never above the hold
            beat(connection, {hold.id: floor}, expires_us=1)
        (closed,) = recover(connection)
        check(connection)
    assert (closed.settled_nano, closed.estimated) == (35, True)


@pytest.mark.parametrize(("period", "later"), [("day", DAY_US), ("month", 31 * DAY_US)])
def test_a_new_window_begins_empty_but_for_what_is_held(
    database: Database, clock: list[int], period: Period, later: int
) -> None:
    with database.transaction() as connection:
        open_account(connection, "k", None)
        set_budget(connection, "key", "k", period, 100)
        reserve(connection, "k", "r1", 30, 0, NEVER)
        settle(connection, reserve(connection, "k", "r2", 70, 0, NEVER).id, 70)
        with pytest.raises(BudgetExceeded):
            reserve(connection, "k", "r3", 1, 0, NEVER)
        clock[0] += later
        with pytest.raises(BudgetExceeded):
            reserve(connection, "k", "r4", 71, 0, NEVER)
        reserve(connection, "k", "r5", 70, 0, NEVER)


@pytest.mark.parametrize("away", [DAY_US, -DAY_US, 400 * DAY_US, -400 * DAY_US])
def test_a_clock_that_jumps_and_comes_back_is_worth_a_window_at_most(
    database: Database, clock: list[int], away: int
) -> None:
    """Neither does it unlock more than one day's budget, nor does it lock out past one day."""

    def spend() -> int:
        """A whole day's budget, where there is one."""
        with database.transaction() as connection:
            till = Till(connection, ["key:k"])
            spent = min(till.left(["key:k"]) or 0, 100)
            hold, _ = till.reserve(Wanted("k", str(clock), ("key:k",), spent, 0, NEVER))
            till.settle(hold.id, spent)
            till.write()
        return spent

    with database.transaction() as connection:
        open_account(connection, "k", None)
        set_budget(connection, "key", "k", "day", 100)
    spent = [spend()]
    for passed in (away, 1 - away, DAY_US, DAY_US):
        clock[0] += passed
        spent.append(spend())
    today, elsewhere, back, tomorrow, later = spent
    assert today == later == 100
    assert elsewhere + back + tomorrow <= 200
    assert tomorrow == (0 if away == DAY_US else 100)


def test_a_clock_waits_for_one_window_and_not_for_two() -> None:
    budget = Budget("key:k", "day", 100, 10, spent_nano=7, held_nano=5, warned=50)
    for day, window in ((9, 10), (8, 8), (9, 9)):
        budget.roll(day * DAY_US)
        assert (budget.period_window, budget.held_nano) == (window, 5)
        assert (budget.spent_nano, budget.warned) == ((0, 0) if day == window == 9 else (7, 50))


@pytest.fixture
def new_york(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The local time of this process."""
    with monkeypatch.context() as there:
        there.setenv("TZ", "America/New_York")
        time.tzset()
        yield
    time.tzset()


@pytest.mark.usefixtures("new_york")
def test_windows_are_days_and_months_of_utc() -> None:
    assert window_of("day", DAY_US - 1) + 1 == window_of("day", DAY_US) == 1
    assert window_of("month", 0) == 1970 * 12
    assert window_of("month", 31 * DAY_US) == 1970 * 12 + 1
    assert window_of("total", NOON) == 0


def test_a_limit_below_what_is_used_is_refused_and_a_lifted_one_covers_all(
    database: Database,
) -> None:
    with database.transaction() as connection:
        open_account(connection, "k", 100)
        reserve(connection, "k", "r1", 60, 0, NEVER)
        with pytest.raises(UserError, match="are spent or held already"):
            set_budget(connection, "key", "k", "total", 59)
        assert set_budget(connection, "key", "k", "total", 60).left_nano == 0
        set_budget(connection, "key", "k", "total", None)
        reserve(connection, "k", "r2", 10**15, 0, NEVER)


def test_warnings_come_once_at_50_80_and_100_percent(
    database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    with database.transaction() as connection:
        open_account(connection, "k", 100)
        for number in range(10):
            hold = reserve(connection, "k", f"r{number}", 10, 0, NEVER)
            settle(connection, hold.id, 10)
    told = [record.getMessage().split(" of the ") for record in caplog.records]
    assert [first for first, _ in told] == ["key:k: 50 %", "key:k: 80 %", "key:k: 100 %"]
    assert told[0][1] == "total budget: $0.00000005 of $0.0000001"
    caplog.clear()
    almost = Budget("key:k", "total", 1_000, 0, spent_nano=499)
    almost.warn()
    assert not caplog.records


@pytest.mark.parametrize("which", ["key", "owner", "project"])
def test_processes_together_stay_within_the_tightest_level(
    database: Database, database_url: str, which: Level
) -> None:
    """Two keys of one owner, spent by three processes, one of which is killed."""
    tight = 3_000
    with database.transaction() as connection:
        for key in ("k1", "k2"):
            open_account(connection, key, tight if which == "key" else None)
        if which != "key":
            set_budget(connection, which, "x", "month", tight)
    spenders = [
        [database_url, key, str(number), "owner:x", "project:x"]
        for number, key in enumerate(("k1", "k2", "k1"))
    ]
    names = ["key:k1", "key:k2", "owner:x", "project:x"]
    with all_running("tests.ledger.spender", spenders) as processes:
        killed = False
        while any(process.poll() is None for process in processes):
            time.sleep(0.03)
            with database.read() as connection:
                check(connection)
                used = max(b.spent_nano + b.held_nano for b in budgets_of(connection, names))
            assert used <= tight
            if used > tight // 3 and not killed:
                processes[0].kill()
                killed = True
    with database.transaction() as connection:
        recover(connection, NEVER)
        check(connection)
        assert all(budget.held_nano == 0 for budget in budgets_of(connection, names))


class Spending(RuleBasedStateMachine):
    """Random reservations, settlements, crashes and clock jumps against a model in plain Python.

    The model counts every (account, period, window) apart, as a reader of the log would.
    """

    holds = Bundle("holds")

    def __init__(self) -> None:
        super().__init__()
        self._folder = tempfile.TemporaryDirectory()
        self._database = sqlite_database(Path(self._folder.name) / "l.db")
        self._limits = {
            ("key:k", "total"): 900,
            ("owner:o", "day"): 300,
            ("project:p", "month"): 500,
        }
        self._patch = pytest.MonkeyPatch()
        self._now = NOON
        for module in CLOCKED:
            self._patch.setattr(f"{module}.database_now", lambda connection: self._now)
        with self._database.transaction(durable=False) as connection:
            open_account(connection, "k", 900)
            set_budget(connection, "owner", "o", "day", 300)
            set_budget(connection, "project", "p", "month", 500)
        self._open: dict[str, int] = {}
        self._spent: dict[tuple[str, Period, int], int] = {}
        self._number = 0

    def teardown(self) -> None:
        self._database.close()
        self._folder.cleanup()
        self._patch.undo()

    @rule(target=holds, fixed=st.integers(0, 60), unit=st.integers(0, 9), units=st.integers(1, 30))
    def reserve(self, fixed: int, unit: int, units: int) -> str:
        self._number += 1
        covered = self._model_left()
        with self._database.transaction(durable=False) as connection:
            till = Till(connection, ACCOUNTS)
            try:
                hold, granted = till.reserve(wanted(f"r{self._number}", fixed, unit, units, 1))
            except BudgetExceeded:
                assert fixed + unit > covered
                return ""
            till.write()
        assert hold.amount_nano == fixed + unit * granted <= covered
        assert granted == units or fixed + unit * (granted + 1) > covered
        self._open[hold.id] = hold.amount_nano
        return hold.id

    @rule(hold=holds, share=st.floats(0, 1))
    def settle(self, hold: str, share: float) -> None:
        if hold in self._open:
            amount = int(self._open.pop(hold) * share)
            self._spend(amount)
            with self._database.transaction(durable=False) as connection:
                settle(connection, hold, amount)

    @rule(hold=holds, fixed=st.integers(0, 90))
    def exchange(self, hold: str, fixed: int) -> None:
        if hold not in self._open:
            return
        covered = self._model_left() + self._open[hold]
        with self._database.transaction(durable=False) as connection:
            till = Till(connection, ACCOUNTS, [hold])
            try:
                till.exchange(hold, wanted("again", fixed))
            except BudgetExceeded:
                assert fixed > covered
                return
            till.write()
        assert fixed <= covered
        self._open[hold] = fixed

    @rule()
    def crash(self) -> None:
        with self._database.transaction(durable=False) as connection:
            for closed in recover(connection, NEVER):
                self._open.pop(closed.id)
                self._spend(closed.settled_nano or 0)
        assert not self._open

    @rule(hours=st.integers(1, 40))
    def pass_time(self, hours: int) -> None:
        self._now += hours * 3600 * 1_000_000

    @invariant()
    def nothing_is_overspent(self) -> None:
        with self._database.read() as connection:
            for budget in budgets_of(connection, ACCOUNTS):
                budget.roll(self._now)
                place = (budget.account, budget.period)
                assert budget.limit_nano == self._limits[place]
                assert budget.held_nano == sum(self._open.values())
                assert budget.spent_nano == self._model_spent(*place)
                assert budget.spent_nano + budget.held_nano <= self._limits[place]

    def _spend(self, amount: int) -> None:
        for name, period in self._limits:
            place = (name, period, window_of(period, self._now))
            self._spent[place] = self._spent.get(place, 0) + amount

    def _model_spent(self, name: str, period: Period) -> int:
        return self._spent.get((name, period, window_of(period, self._now)), 0)

    def _model_left(self) -> int:
        held = sum(self._open.values())
        return min(
            limit - held - self._model_spent(*place) for place, limit in self._limits.items()
        )


Spending.TestCase.settings = settings(max_examples=25, stateful_step_count=25, deadline=None)
TestSpending = Spending.TestCase


def test_every_period_is_known() -> None:
    assert set(PERIODS) == {"day", "month", "total"}
