"""Processes that reserve and settle without a pause, and are killed at any instant.

Each is forked from one that has imported everything, so that a kill costs a tenth of a second. What
a process was told is in its file before it does the next thing: a write to a file outlives the
writer.
"""

import asyncio
import json
import os
import random
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.gateway.visiting import PRICE, Visitors
from tests.gateway.world import World
from tests.ledger import history
from tests.ledger.one import recover
from trimtab.errors import BudgetExceeded, LedgerError
from trimtab.gateway.billing.books import Books
from trimtab.inference import Usage
from trimtab.ledger.accounts import Level, Period, budgets_of, open_account, set_budget
from trimtab.ledger.reservation import Wanted, beat
from trimtab.ledger.till import Till
from trimtab.store import database as store
from trimtab.store.database import Database

ACCOUNTS = ("key:k", "owner:o", "project:p")
LIMITS: tuple[tuple[Level, str, Period], ...] = (
    ("key", "k", "total"),
    ("owner", "o", "month"),
    ("project", "p", "day"),
)
MORE = 3_000
SPENDERS = 3

Tell = Callable[[dict[str, Any]], None]


def spend(url: str, seed: int, tell: Tell) -> None:
    """Tills over three levels: several reservations a transaction, other amounts for some of them,
    and settlements of some; beats and recoveries between."""
    database, chance = Database(url), random.Random(seed)
    open_: dict[str, tuple[str, int]] = {}
    for number in range(10**9):
        time.sleep(chance.random() * 0.01)  # whoever never lets go of the lock starves the others
        with database.transaction(durable=False) as connection:
            closing = [hold for hold in open_ if chance.random() < 0.6]
            changing = [hold for hold in open_ if hold not in closing and chance.random() < 0.3]
            till = Till(connection, ACCOUNTS, [*closing, *changing])
            told: list[dict[str, Any]] = []
            for hold in closing:
                request, amount = open_.pop(hold)
                settled = till.settle(hold, chance.randint(0, amount))
                told.append({"request": request, "amount": settled.settled_nano})
            for hold in changing:
                request, _ = open_[hold]
                # Another one may have taken it for dead, and closed it.
                with suppress(LedgerError):
                    changed, _ = till.exchange(hold, wanted(request, chance))
                    open_[hold] = (request, changed.amount_nano)
                    told.append({"hold": hold, "amount": changed.amount_nano})
            for part in range(chance.randint(1, 4)):
                request = f"{os.getpid()}-{seed}-{number}-{part}"
                with suppress(BudgetExceeded):
                    made, _ = till.reserve(wanted(request, chance))
                    open_[made.id] = (request, made.amount_nano)
                    told.append({"hold": made.id, "amount": made.amount_nano})
            till.write()
        for line in told:
            tell(line)
        if number % 7 == 6:
            with database.transaction(durable=False) as connection:
                beat(connection, dict.fromkeys(open_, 5), 2**61)
            # A transaction of its own, as a gateway's: it locks budgets before holds, a beat holds.
            with database.transaction(durable=False) as connection:
                # What a killed one left: nobody has named it since it was made.
                recover(connection, 2**60)


def wanted(request: str, chance: random.Random) -> Wanted:
    fixed = chance.randint(10, 60)
    # Expired at once, but for those that a beat keeps.
    expires = 2**61 if chance.random() < 0.5 else 2**59
    return Wanted("k", request, ACCOUNTS, fixed, 10, expires, "", 7, chance.randint(1, 20), 1)


def answer(url: str, visitors: Visitors, seed: int, tell: Tell) -> None:
    """The books of a gateway: eight requests at once, limits, ledger and log."""
    database, chance = Database(url), random.Random(seed)

    async def one(books: Books) -> None:
        while True:
            visit = visitors.visit()
            try:
                async with books.accounted(visit):
                    await books.reserve(visit, chance.randint(1, 9), 20, 1)
                    assert visit.reserved is not None
                    tell(
                        {"hold": visit.reserved.hold.id, "amount": visit.reserved.hold.amount_nano}
                    )
                    await asyncio.sleep(chance.random() * 0.005)
                    most = visit.reserved.completion_tokens
                    visit.usage = Usage(1, chance.randint(0, most))
                    await books.close(visit)
            except BudgetExceeded:
                await asyncio.sleep(0.01)
                continue
            tell({"request": visit.id, "amount": visit.cost_nano})

    async def all_of_them() -> None:
        books = Books(database)
        await asyncio.gather(*(one(books) for _ in range(8)))

    asyncio.run(all_of_them())


@dataclass
class Spender:
    pid: int
    file: Path


class Spenders:
    """Several at once; whoever is killed is replaced."""

    def __init__(self, folder: Path, work: Callable[[int, Tell], None]) -> None:
        self._folder = folder
        self._work = work
        self._number = 0
        self._living: list[Spender] = []
        self.files: list[Path] = []

    def __enter__(self) -> "Spenders":
        for _ in range(SPENDERS):
            self._start()
        return self

    def __exit__(self, *_: object) -> None:
        while self._living:
            self._end(self._living[0])

    def kill_one(self, chance: random.Random) -> None:
        self._end(chance.choice(self._living))
        self._start()

    def told(self) -> Iterator[dict[str, Any]]:
        """What they were told; a kill may cut the last line short."""
        for file in self.files:
            for line in file.read_text().splitlines(keepends=True):
                if line.endswith("\n"):
                    yield json.loads(line)

    def _start(self) -> None:
        self._number += 1
        file = self._folder / f"told-{self._number}"
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                self._spend(file)
                code = 0
            finally:
                os._exit(code)
        self.files.append(file)
        self._living.append(Spender(pid, file))

    def _spend(self, file: Path) -> None:
        descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

        def tell(line: dict[str, Any]) -> None:
            os.write(descriptor, json.dumps(line).encode() + b"\n")

        try:
            self._work(self._number, tell)
        except BaseException as error:
            tell({"died": f"{type(error).__name__}: {error}"})
            raise

    def _end(self, spender: Spender) -> None:
        os.kill(spender.pid, signal.SIGKILL)
        os.waitpid(spender.pid, 0)
        self._living.remove(spender)


@dataclass
class Outcome:
    kills: int
    states: int
    acknowledged: int
    wrong: list[str]


def tills(database: Database, folder: Path, kills: int, chance: random.Random) -> Outcome:
    """One history of tills in a database of its own."""
    url = database.url.render_as_string(hide_password=False)
    with database.transaction() as connection:
        open_account(connection, "k", None)
    return _history(
        database, LIMITS, folder, kills, chance, lambda seed, tell: spend(url, seed, tell)
    )


def books(world: World, folder: Path, kills: int, chance: random.Random) -> Outcome:
    """One history of gateways' books in a world of its own."""
    limits: tuple[tuple[Level, str, Period], ...] = (("key", world.key.id, "total"),)
    url, visitors = world.database.url.render_as_string(), Visitors(world)
    return _history(
        world.database,
        limits,
        folder,
        kills,
        chance,
        lambda seed, tell: answer(url, visitors, seed, tell),
        more=PRICE.of(9, 20) * 6,
    )


def _history(
    database: Database,
    limits: tuple[tuple[Level, str, Period], ...],
    folder: Path,
    kills: int,
    chance: random.Random,
    work: Callable[[int, Tell], None],
    more: int = MORE,
) -> Outcome:
    # A lock may be waited for as long as it takes: how soon is not what is asked here.
    store.BUSY_S = 120.0
    database = Database(database.url)
    raise_limits(database, limits, more)
    history.record(database)
    # A connection does not survive a fork.
    database.close()
    with Spenders(folder, work) as spenders:
        for _ in range(kills):
            time.sleep(0.02 + chance.random() * 0.1)
            spenders.kill_one(chance)
            raise_limits(database, limits, more)
            database.close()
    with database.transaction() as connection:
        recover(connection, 2**62)
        told = list(spenders.told())
        verdict = history.check(connection, told)
        names = [f"{level}:{name}" for level, name, _ in limits]
        if any(budget.held_nano for budget in budgets_of(connection, names)):
            verdict.wrong.append("something is held after everything was recovered")
    database.close()
    verdict.wrong += [str(line["died"]) for line in told if "died" in line]
    return Outcome(kills, verdict.states, len(told), verdict.wrong)


def raise_limits(
    database: Database, limits: tuple[tuple[Level, str, Period], ...], more: int
) -> None:
    """As much again as is used, each level's by another share, so that each is the tightest now
    and then."""
    with database.transaction(durable=False) as connection:
        for number, (level, name, period) in enumerate(limits):
            used = 0
            for budget in budgets_of(connection, [f"{level}:{name}"], lock=True):
                if budget.period == period:
                    used = budget.spent_nano + budget.held_nano
            set_budget(connection, level, name, period, used + more * (number + 2) // 2)
