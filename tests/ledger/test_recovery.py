"""What a crash left is settled, and nothing that somebody works for, whatever the clock does."""

from collections.abc import Callable

import pytest

from tests.ledger.one import CLOCKED, reserve, settle
from tests.ledger.test_holds import check
from trimtab.errors import LedgerError
from trimtab.ledger import recovery
from trimtab.ledger.accounts import account, open_account
from trimtab.ledger.recovery import BACK_US, PATIENCE_S, Recovery, close
from trimtab.ledger.reservation import NEVER_US, beat, get, suspects
from trimtab.store.database import Database

HOUR_US = 3600 * 1_000_000
START = 2 * 10**15


class Times:
    """The wall clock of the database in microseconds, and one of our own in seconds."""

    def __init__(self) -> None:
        self.wall, self.own = START, 0.0

    def passes(self, seconds: float) -> None:
        self.own += seconds
        self.wall += int(seconds * 1e6)


@pytest.fixture
def times(monkeypatch: pytest.MonkeyPatch) -> Times:
    times = Times()
    for module in CLOCKED:
        monkeypatch.setattr(f"{module}.database_now", lambda _: times.wall)
    return times


@pytest.fixture
def recovers(database: Database, times: Times) -> Callable[[], list[str]]:
    """Opens an account with two holds, 'left' and 'worked', that expire in a minute."""
    with database.transaction() as connection:
        open_account(connection, "k", 1_000)
        for request in ("left", "worked"):
            reserve(connection, "k", request, 100, 10, times.wall + 60_000_000)
    leader = Recovery(lambda: times.own)

    def tick() -> list[str]:
        with database.transaction() as connection:
            closed = leader.settle(connection)
            check(connection)
        return [hold.request_id for hold in closed]

    return tick


def beats(database: Database, times: Times) -> None:
    with database.transaction() as connection:
        worked = next(
            hold.id for hold in suspects(connection, 2**61) if hold.request_id == "worked"
        )
        beat(connection, {worked: 25}, times.wall + 60_000_000)


def test_what_nobody_keeps_is_settled_after_a_while(
    database: Database, times: Times, recovers: Callable[[], list[str]]
) -> None:
    assert recovers() == []
    times.passes(59)
    beats(database, times)
    times.passes(1)
    assert recovers() == []  # expired, and watched from now on
    times.passes(PATIENCE_S - 0.1)
    assert recovers() == []
    beats(database, times)
    times.passes(0.1)
    assert recovers() == ["left"]
    with database.read() as connection:
        assert (account(connection, "k").spent_nano, account(connection, "k").held_nano) == (
            10,
            100,
        )
    times.passes(60)
    assert recovers() == []
    times.passes(PATIENCE_S)
    assert recovers() == ["worked"]
    with database.read() as connection:
        assert account(connection, "k").spent_nano == 10 + 25


def test_a_clock_that_jumps_ahead_ends_nobodys_work(
    database: Database, times: Times, recovers: Callable[[], list[str]]
) -> None:
    times.wall += HOUR_US
    assert recovers() == []
    times.passes(5)
    beats(database, times)
    times.passes(PATIENCE_S)
    assert recovers() == ["left"]


def test_a_clock_that_is_set_back_keeps_no_dead_hold_for_long(
    database: Database, times: Times, recovers: Callable[[], list[str]]
) -> None:
    times.wall -= HOUR_US
    assert times.wall + BACK_US < START
    assert recovers() == []
    for _ in range(4):
        times.passes(5)
        beats(database, times)
        found = recovers()
    assert found == []  # the dead one was closed in a round before
    with database.read() as connection:
        assert account(connection, "k").held_nano == 100
        assert [hold.request_id for hold in suspects(connection, 2**61)] == ["worked"]


def test_what_never_expires_is_nobodys_to_close(
    database: Database, times: Times, recovers: Callable[[], list[str]]
) -> None:
    """The hold of a batch's line outlives gateways: whoever takes the line over ends it."""
    with database.transaction() as connection:
        reserve(connection, "k", "line", 100, 10, NEVER_US)
    for jump in (0, HOUR_US, -2 * HOUR_US):
        times.wall += jump
        closed: list[str] = []
        for _ in range(3):
            times.passes(PATIENCE_S)
            closed += recovers()
        assert "line" not in closed


def test_what_was_extended_or_settled_meanwhile_is_left(
    database: Database, times: Times, recovers: Callable[[], list[str]]
) -> None:
    with database.transaction() as connection:
        left, worked = sorted(suspects(connection, 2**61), key=lambda hold: hold.request_id)
        beat(connection, {worked.id: 0}, times.wall + 1)
        settle(connection, left.id, 100)
        assert close(connection, [left, worked]) == ()
        assert close(connection, []) == ()
        assert get(connection, worked.id).state == "open"
        with pytest.raises(LedgerError, match="no hold nobody"):
            get(connection, "nobody")
        check(connection)


def test_the_leader_looks_for_longer_than_a_gateway_is_silent() -> None:
    from trimtab.gateway.billing import heartbeat

    assert recovery.PATIENCE_S >= 2 * heartbeat.BEAT_S
