from pathlib import Path

import pytest

from tests.ledger.one import reserve
from trimtab.flows.controller import Controller
from trimtab.flows.journal import StepJournal
from trimtab.flows.tables import take_lease
from trimtab.gateway import keys, replays
from trimtab.ledger import recovery
from trimtab.ledger.accounts import account
from trimtab.store.clock import now_us
from trimtab.store.database import Database
from trimtab.store.home import Home


def test_a_step_is_known_only_when_it_is_finished(database: Database) -> None:
    journal = StepJournal(database, "p")
    journal.start("data", "k")
    assert journal.find("data", "k") is None
    journal.start("data", "k")
    with database.transaction() as connection:
        journal.finish(connection, "data", "k", {"dataset": "d"})
    assert journal.find("data", "k") == {"dataset": "d"}
    assert journal.find("data", "other") is None
    assert StepJournal(database, "q").find("data", "k") is None


def test_a_lease_has_one_owner_until_it_expires(database: Database) -> None:
    with database.transaction() as connection:
        assert take_lease(connection, "c", "one", now=10, expires=20)
        assert not take_lease(connection, "c", "two", now=15, expires=25)
        assert take_lease(connection, "c", "one", now=15, expires=25)
        assert take_lease(connection, "c", "two", now=26, expires=30)


def test_the_controller_settles_what_a_crash_left_and_deletes_what_is_over(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recovery, "PATIENCE_S", 0.0)
    with database.transaction() as connection:
        key = keys.create(connection, "k", "k", "1").id
        reserve(connection, key, "r", amount=100, floor=30, expires_us=now_us() - 1)
        replays.claim(connection, replays.Claim(key, "n", "f", "r", "dead"))
        connection.exec_driver_sql("UPDATE replays SET answer = 'words', expires_us = 1")
    home = Home(tmp_path)
    leading, waiting = Controller(database, home), Controller(database, home)
    assert leading.tick()
    assert not waiting.tick()
    with database.read() as connection:
        left = account(connection, key)
        assert not connection.exec_driver_sql("SELECT * FROM replays").all()
    assert (left.spent_nano, left.held_nano) == (30, 0)
