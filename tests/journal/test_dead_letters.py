"""Dead letters as rows: one a request, narrowed, counted, deleted when their time is over."""

import pytest

from trimtab.errors import NotFound
from trimtab.journal import dead_letters
from trimtab.journal.dead_letters import Choice, DeadLetter
from trimtab.store.database import Database


def letter(number: int, **changes: object) -> DeadLetter:
    values: dict[str, object] = {
        "id": f"dl_{number}",
        "source": "batch",
        "group": "batch_1",
        "place": number,
        "request_id": f"req_{number}",
        "name": f"r{number}",
        "key_id": "k",
        "owner": "o",
        "state": "dead",
        "reason": "too_long",
        "detail": "it is",
        "payload": "{}",
        "attempts": 1,
        "replays": 0,
        "created_us": 1000 * number,
        "expires_us": 10_000 * number,
    }
    return DeadLetter(**(values | changes))  # type: ignore[arg-type]


def test_a_request_has_one_letter_that_counts_all_attempts(database: Database) -> None:
    again = letter(9, request_id="req_1", reason="timeout", attempts=5, created_us=7)
    with database.transaction() as connection:
        dead_letters.put(connection, letter(1, attempts=2))
        assert dead_letters.replaying(connection, "dl_1")
        assert not dead_letters.replaying(connection, "dl_1")
        assert dead_letters.get(connection, "dl_1").state == "replaying"
        dead_letters.put(connection, again)
        [found] = dead_letters.list(connection)
        assert (found.id, found.reason, found.state) == ("dl_1", "timeout", "dead")
        assert (found.attempts, found.replays, found.created_us) == (7, 1, 7)
        dead_letters.settle(connection, "req_1")
        with pytest.raises(NotFound, match="dl_1"):
            dead_letters.get(connection, "dl_1")


def test_letters_are_narrowed_paged_and_counted(database: Database) -> None:
    with database.transaction() as connection:
        for number in range(6):
            group, reason = f"batch_{number % 2}", ("expired" if number > 3 else "too_long")
            dead_letters.put(connection, letter(number, group=group, reason=reason))
        choice = Choice(group="batch_1")
        assert [found.place for found in dead_letters.list(connection, choice)] == [1, 3, 5]
        assert dead_letters.count(connection, choice) == 3
        first = dead_letters.list(connection, choice, 2)
        after = (first[-1].created_us, first[-1].id)
        assert [found.place for found in dead_letters.list(connection, choice, 2, after)] == [5]
        both = Choice(reason="expired", owner="o", until_us=4000)
        assert [found.place for found in dead_letters.list(connection, both)] == [4]
        assert dead_letters.counts(connection) == {
            ("batch", "too_long", "dead"): 4,
            ("batch", "expired", "dead"): 2,
        }


def test_what_is_over_goes_and_what_is_replayed_stays(database: Database) -> None:
    with database.transaction() as connection:
        for number in range(4):
            dead_letters.put(connection, letter(number))
        dead_letters.replaying(connection, "dl_1")
        assert dead_letters.purge_expired(connection, 20_000) == 2
        assert [found.id for found in dead_letters.list(connection)] == ["dl_1", "dl_3"]
        assert dead_letters.purge(connection, ["dl_1", "dl_3"]) == 1
        assert dead_letters.states(connection, ["dl_1", "dl_3"]) == ("replaying",)
        dead_letters.dead_again(connection, "req_1")
        assert dead_letters.purge(connection, ["dl_1"]) == 1
