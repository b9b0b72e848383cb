"""Accounts and their budgets: what a key, an owner or a project may spend, has spent, and holds.

A budget is for a day, a month (both UTC) or in total. It counts from the moment it is set. A key's
total stands from the key's making on, with a limit or without one.
"""

import logging
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from operator import attrgetter
from typing import Literal

from trimtab.errors import LedgerError, UserError
from trimtab.ledger.money import show
from trimtab.ledger.tables import (
    LOCK_BUDGETS,
    PUT_BUDGETS,
    READ_BUDGETS,
    budgets,
    database_now,
)
from trimtab.store.database import Connection
from trimtab.store.rows import insert_once, insert_or_update

Level = Literal["key", "owner", "project"]
Period = Literal["day", "month", "total"]

PERIODS: tuple[Period, ...] = ("day", "month", "total")
WARN_AT = (50, 80, 100)
_DAY_US = 86_400 * 1_000_000

_COLUMNS = tuple(column.name for column in budgets.columns)
_values = attrgetter(*_COLUMNS)

log = logging.getLogger(__name__)


@dataclass(slots=True)
class Budget:
    """In nano-dollars; without a limit, `limit_nano` is None. `period_window` numbers the day or
    month that `spent_nano` is of; `warned` is the last of 50, 80 and 100 % that was told.
    `beyond_nano` was spent beyond the limit, by what could not ask before: a higher limit has to
    cover it first."""

    account: str
    period: Period
    limit_nano: int | None
    period_window: int
    spent_nano: int = 0
    held_nano: int = 0
    warned: int = 0
    beyond_nano: int = 0

    @property
    def left_nano(self) -> int | None:
        """What can still be reserved; None without a limit."""
        if self.limit_nano is None:
            return None
        free = self.limit_nano - self.spent_nano - self.held_nano
        # What is freed of a hold pays what is beyond first.
        return max(0, free - self.beyond_nano)

    def charge(self, amount_nano: int) -> None:
        """Count what is spent already and was not held."""
        left = self.left_nano
        within = amount_nano if left is None else min(amount_nano, left)
        self.spent_nano += within
        self.beyond_nano += amount_nano - within
        self.warn()

    def limit(self, limit_nano: int | None) -> None:
        """Set another limit, no less than what is spent and held."""
        whole = self.spent_nano + self.beyond_nano
        room = whole if limit_nano is None else limit_nano - self.held_nano
        self.limit_nano, self.warned = limit_nano, 0
        self.spent_nano = min(whole, room)
        self.beyond_nano = whole - self.spent_nano

    def roll(self, at_us: int) -> None:
        """Begin a new day or month. What is held stays: it will be spent in the new one.

        A clock that went back empties nothing: the window waits, or, further back than one window,
        is set anew with its spending kept. So a jump is worth one window's budget at most, and
        shuts it for one window at most.
        """
        now = window_of(self.period, at_us)
        if now > self.period_window:
            self.spent_nano, self.beyond_nano, self.warned, self.period_window = 0, 0, 0, now
        elif now < self.period_window - 1:
            self.period_window = now

    def warn(self) -> None:
        """Say once that 50, 80 or 100 % are spent."""
        if not self.limit_nano:
            return
        reached = [at for at in WARN_AT if self.spent_nano * 100 >= self.limit_nano * at]
        if reached and reached[-1] > self.warned:
            self.warned = reached[-1]
            spent, limit = show(self.spent_nano), show(self.limit_nano)
            log.warning("%s: %d %% of the %s budget: %s of %s", *self._name, spent, limit)

    @property
    def _name(self) -> tuple[str, int, str]:
        return self.account, self.warned, self.period


def account_of(level: Level, name: str) -> str:
    return f"{level}:{name}"


def window_of(period: Period, at_us: int) -> int:
    """The number of the day or month (UTC) of a time; 0 for a total."""
    if period == "day":
        return at_us // _DAY_US
    if period == "month":
        at = datetime.fromtimestamp(at_us // 1_000_000, UTC)
        return at.year * 12 + at.month - 1
    return 0


def open_account(connection: Connection, key_id: str, limit_nano: int | None) -> Budget:
    """Open a key's account with its total; one that is open is left as it is."""
    made = Budget(account_of("key", key_id), "total", limit_nano, 0)
    insert_once(connection, budgets, asdict(made))
    return account(connection, key_id)


def account(connection: Connection, key_id: str) -> Budget:
    """A key's total. Raises LedgerError for a key without an account."""
    for found in budgets_of(connection, [account_of("key", key_id)]):
        if found.period == "total":
            return found
    raise no_account(key_id)


def set_budget(
    connection: Connection, level: Level, name: str, period: Period, limit_nano: int | None
) -> Budget:
    """Set, change or (with None) lift a limit. One below what is spent and held is a UserError."""
    account = account_of(level, name)
    now = database_now(connection)
    found = {budget.period: budget for budget in budgets_of(connection, [account], lock=True)}
    budget = found.get(period) or Budget(account, period, None, window_of(period, now))
    budget.roll(now)
    used = budget.spent_nano + budget.held_nano
    if limit_nano is not None and limit_nano < used:
        raise UserError(
            f"{account}: {show(used)} of this {period} are spent or held already",
            hint="set no less, or revoke the key",
        )
    budget.limit(limit_nano)
    insert_or_update(connection, budgets, asdict(budget), key=["account", "period"])
    return budget


def budgets_of(
    connection: Connection, accounts: Iterable[str], *, lock: bool = False
) -> Sequence[Budget]:
    """The budgets of accounts, in one order for everybody; with `lock`, nobody else can change
    them until the transaction ends."""
    query = LOCK_BUDGETS if lock else READ_BUDGETS
    rows = query.rows(connection, accounts=sorted(set(accounts)))
    return tuple(Budget(**row._asdict()) for row in rows)


def write_budgets(connection: Connection, changed: Sequence[Budget]) -> None:
    """Write what is spent and held in budgets that were locked."""
    rows = [dict(zip(_COLUMNS, _values(budget), strict=True)) for budget in changed]
    PUT_BUDGETS.run(connection, rows)


def no_account(key_id: str) -> LedgerError:
    return LedgerError(f"key {key_id} has no account", hint="make one: trimtab keys create NAME")
