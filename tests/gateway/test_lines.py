"""Leases of lines: one owner at a time, and what a dead one held is nobody's."""

from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import event

from tests.crash.batch_kills import accept
from tests.gateway.world import World
from tests.ledger.one import reserve
from trimtab.gateway.offline import batches, files, lines
from trimtab.gateway.offline.line import request_id
from trimtab.ledger.reservation import NEVER_US, find, suspects


@pytest.fixture
def batch(world: World, tmp_path: Path) -> str:
    return accept(world, tmp_path, 5)


def test_a_line_has_one_owner_until_its_lease_ends(
    world: World, batch: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with world.database.transaction() as connection:
        first = lines.claim(connection, world.content, batch, "one", 3)
        second = lines.claim(connection, world.content, batch, "two", 3)
        assert [line.number for line in (*first, *second)] == [0, 1, 2, 3, 4]
        assert lines.claim(connection, world.content, batch, "three", 3) == []
        assert all(line.mine(connection) for line in (*first, *second))
        assert lines.take_back(connection) == 0
        monkeypatch.setattr(lines, "LEASE_US", -1)
        lines.beat(connection, ["one"])
        assert lines.take_back(connection) == 3
        assert [line.mine(connection) for line in (*first, *second)] == [False] * 3 + [True] * 2
        third = lines.claim(connection, world.content, batch, "three", 9)
        assert [(line.number, line.request) for line in third] == [
            (line.number, line.request) for line in first
        ]
        assert [line.mine(connection) for line in (*first, *third)] == [False] * 3 + [True] * 3


def test_what_was_held_for_a_lost_line_is_taken_back_and_costs_nothing(
    world: World, batch: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lines, "LEASE_US", -1)
    with world.database.transaction() as connection:
        [line] = lines.claim(connection, world.content, batch, "one", 1)
        reserve(connection, world.key.id, line.request_id, 100, 30, NEVER_US)
        assert suspects(connection, 2**61) == ()
    assert world.account().held_nano == 100
    with world.database.transaction() as connection:
        assert lines.take_back(connection) == 1
        assert find(connection, line.request_id) is None
    assert (world.account().held_nano, world.account().spent_nano) == (0, 0)


def test_a_batch_that_waits_or_is_over_gives_no_lines(world: World, batch: str) -> None:
    with world.database.transaction() as connection:
        batches.put_off(connection, batch, "budget_exceeded", 2**61)
        assert lines.claim(connection, world.content, batch, "one", 1) == ()
        batches.change(connection, batch, not_before_us=0, expires_us=1)
        assert lines.claim(connection, world.content, batch, "one", 1) == ()


def test_ids_of_lines_are_the_same_however_often_they_are_tried() -> None:
    ids = {request_id(batch, number) for batch in "ab" for number in range(100)}
    assert len(ids) == 200
    assert request_id("a", 7) in ids


def test_a_batch_whose_input_is_gone_ends_and_only_one_whose_window_is_over_gives_it_up(
    world: World, batch: str
) -> None:
    with world.database.transaction() as connection:
        lines.claim(connection, world.content, batch, "one", 2)
        found = batches.locked(connection, batch)
        file = files.find(connection, found.input_file)
        assert file is not None
        world.content.delete(file.blob)
        assert lines.claim(connection, world.content, batch, "two", 2) == ()
        waiting = batches.locked(connection, batch)
        assert (waiting.waits_for, waiting.next_line) == ("store_unavailable", 2)
        assert lines.let_die(connection, world.content, batch) == 3
        assert (batches.locked(connection, batch).failed, found.total) == (3, 5)
        batches.change(connection, batch, not_before_us=0, next_line=2, failed=0)
        files.drop(connection, [file.id])
        assert lines.claim(connection, world.content, batch, "two", 2) == []
        gone = batches.locked(connection, batch)
        assert (gone.next_line, gone.failed) == (5, 3)


def test_a_beat_locks_lines_in_the_order_of_their_requests(world: World, batch: str) -> None:
    said: list[str] = []
    with world.database.transaction() as connection:
        lines.claim(connection, world.content, batch, "one", 3)

        def note(_: Any, __: Any, statement: str, *___: Any) -> None:
            said.append(" ".join(statement.split()))

        event.listen(connection, "before_cursor_execute", note)
        lines.beat(connection, ["one"])
    [update] = [at for at, each in enumerate(said) if each.startswith("UPDATE lines")]
    assert any("ORDER BY lines.request_id" in each for each in said[:update])
