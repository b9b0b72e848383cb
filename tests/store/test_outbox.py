"""What waits to be told: once by its key, in order, and kept until it has arrived."""

import pytest

from trimtab.store import outbox
from trimtab.store.database import Database


@pytest.fixture
def filled(database: Database) -> Database:
    with database.transaction() as connection:
        for key, now in (("a/2", 20), ("a/1", 10), ("b/1", 15)):
            assert outbox.put(connection, key[0], key, key.upper(), now)
    return database


def test_a_key_is_written_once(filled: Database) -> None:
    with filled.transaction() as connection:
        assert not outbox.put(connection, "a", "a/1", "another", 30)
        [first, _] = outbox.of_topic(connection, "a", 10)
    assert first.payload == "A/1"


def test_a_topic_is_told_in_the_order_it_was_written(filled: Database) -> None:
    with filled.read() as connection:
        assert outbox.topics(connection) == ["a", "b"]
        assert [m.key for m in outbox.of_topic(connection, "a", 10)] == ["a/1", "a/2"]
        assert [m.key for m in outbox.of_topic(connection, "a", 1)] == ["a/1"]
        assert (outbox.waiting(connection), outbox.waiting(connection, "b")) == (3, 1)


def test_what_arrived_is_not_told_again_and_its_content_is_not_kept(filled: Database) -> None:
    with filled.transaction() as connection:
        [first, second] = outbox.of_topic(connection, "a", 10)
        outbox.trying(connection, [first])
        outbox.delivered(connection, [first], 40)
        assert outbox.of_topic(connection, "a", 10) == [second]
        assert not outbox.put(connection, "a", "a/1", "again", 50)


def test_what_failed_waits_and_may_have_arrived(filled: Database) -> None:
    with filled.transaction() as connection:
        messages = outbox.of_topic(connection, "a", 10)
        assert outbox.goes(connection, "a")
        outbox.trying(connection, messages)
        outbox.failed(connection, messages, "nobody answers")
        assert [m.attempts for m in outbox.of_topic(connection, "a", 10)] == [1, 1]
        assert not outbox.goes(connection, "a")
        assert outbox.goes(connection, "b")
