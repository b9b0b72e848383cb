"""What a server keeps apart and SQLite, with its one writer, never sees: locks, on PostgreSQL."""

import random
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pytest

from tests.ledger.one import recover
from tests.ledger.test_holds import check
from trimtab.errors import BudgetExceeded
from trimtab.gateway import keys
from trimtab.gateway.billing.limits import Meters
from trimtab.gateway.keys import Key, Limits
from trimtab.gateway.offline import batches, files
from trimtab.gateway.offline.files import File
from trimtab.gateway.problems import Problem
from trimtab.ledger.accounts import open_account, set_budget
from trimtab.ledger.reservation import Wanted, beat
from trimtab.ledger.tables import database_now
from trimtab.ledger.till import Till
from trimtab.store.database import Connection, Database

pytestmark = pytest.mark.parametrize("make_database", ["postgresql"], indirect=True)

KEYS = ("a", "b", "c")
NAMES = ("key:a", "key:b", "key:c", "owner:o")
NEVER = 2**61


def test_nobody_waits_for_each_other_and_nothing_is_lost(database: Database) -> None:
    """Tills, beats, recoveries, meters and whoever sets budgets, each in an order of its own. A
    circle of waiting would end in an error, a lost lock in sums that do not agree."""
    with database.transaction() as connection:
        for key in KEYS:
            open_account(connection, key, 10_000)
        set_budget(connection, "owner", "o", "total", 20_000)
    known = [Key(key, "n", "o", 0, None, limits=Limits(10**6, 10**6)) for key in KEYS]
    held: list[str] = []

    def spend(connection: Connection, chance: random.Random) -> None:
        mine = chance.sample(held, min(2, len(held)))
        till = Till(connection, chance.sample(NAMES, len(NAMES)), mine)
        for hold in mine:
            till.settle(hold, chance.randrange(3))
        for key in chance.sample(KEYS, 2):
            accounts = (f"key:{key}", "owner:o")
            try:
                wanted = Wanted(key, f"r{chance.random()}", accounts, 5, 1, NEVER)
                held.append(till.reserve(wanted)[0].id)
            except BudgetExceeded:
                pass
        till.write()
        meters = Meters(connection, chance.sample(known, len(known)), till.now_us)
        for key in chance.sample(known, len(known)):
            meters.take(key, meters.ask(key, 3))
        meters.write()

    def live(connection: Connection, chance: random.Random) -> None:
        mine = chance.sample(held, min(5, len(held)))
        beat(connection, dict.fromkeys(mine, 2), NEVER)

    def lead(connection: Connection, chance: random.Random) -> None:
        recover(connection, database_now(connection))

    def govern(connection: Connection, chance: random.Random) -> None:
        set_budget(connection, "key", chance.choice(KEYS), "total", 10_000 + chance.randrange(9))

    def work(does: Callable[[Connection, random.Random], None], number: int) -> None:
        chance = random.Random(number)
        for _ in range(30):
            with database.transaction(durable=False) as connection:
                does(connection, chance)

    with ThreadPoolExecutor(5) as pool:
        doing = [
            pool.submit(work, each, n) for n, each in enumerate((spend, spend, live, lead, govern))
        ]
    for done in doing:
        done.result()
    with database.read() as connection:
        check(connection)
        [*counted] = connection.exec_driver_sql("SELECT level FROM meters WHERE kind = 'requests'")
    assert len(counted) == 3


@pytest.fixture
def key(database: Database) -> Key:
    with database.transaction() as connection:
        return keys.get(connection, keys.create(connection, "k", "somebody").id)


@pytest.fixture
def file(database: Database, key: Key) -> File:
    with database.transaction() as connection:
        now = database_now(connection)
        made = File(
            id=files.new_id(),
            key_id=key.id,
            owner=key.owner,
            name="asks.jsonl",
            purpose="batch",
            bytes=10,
            blob="b" * 64,
            lines=1,
            endpoint="/v1/generate",
            created_us=now,
            expires_us=now + 10**12,
        )
        files.add(connection, made)
    return made


def begun(connection: Connection, key: Key, file: File) -> str:
    found = files.locked(connection, key, file.id)
    return batches.create(connection, key, found, "/v1/generate", 3600, None).id


def deleted(connection: Connection, key: Key, file: File) -> str:
    files.delete(connection, files.locked(connection, key, file.id))
    return "deleted"


def forgotten(connection: Connection, key: Key, file: File) -> str:
    gone = files.forget(connection, database_now(connection), everything=True)
    return "forgotten" if gone else "kept"


Deed = Callable[[Connection, Key, File], str]


@pytest.mark.parametrize(
    ("first", "second", "then"),
    [
        (begun, deleted, "file_in_use"),
        (begun, forgotten, "kept"),
        (deleted, begun, "file_not_found"),
        (forgotten, begun, "file_not_found"),
    ],
)
def test_a_file_is_worked_on_or_deleted_and_never_both(
    database: Database, key: Key, file: File, first: Deed, second: Deed, then: str
) -> None:
    """The second waits for the first, and sees what it did."""
    entered = threading.Event()

    def other() -> str:
        with database.transaction() as connection:
            entered.set()
            try:
                return second(connection, key, file)
            except Problem as refused:
                return refused.code

    with ThreadPoolExecutor(1) as pool:
        with database.transaction() as connection:
            first(connection, key, file)
            waiting: Future[str] = pool.submit(other)
            entered.wait(10)
            assert not _ends(waiting, 0.2)
        assert waiting.result(10) == then


def _ends(work: Future[Any], seconds: float) -> bool:
    try:
        work.result(seconds)
    except TimeoutError:
        return False
    return True
