import pytest

from trimtab.journal import words
from trimtab.journal.words import KEPT_US, MOST_CHARACTERS, Words
from trimtab.store.database import Database


def kept(request: str, owner: str = "somebody", at_us: int = 1) -> Words:
    return words.of(request, "k", owner, f"asked {request}", f"said {request}", at_us)


def test_words_are_found_by_their_request(database: Database) -> None:
    with database.transaction() as connection:
        words.record_all(connection, [kept("a"), kept("b")])
        assert words.get(connection, "a") == kept("a")
        assert words.get(connection, "c") is None


def test_a_long_prompt_is_cut_and_said_to_be(database: Database) -> None:
    long = words.of("a", "k", "o", "x" * (MOST_CHARACTERS + 1), "y" * MOST_CHARACTERS, 1)
    assert (long.prompt, long.cut) == ("x" * MOST_CHARACTERS, True)
    assert not words.of("a", "k", "o", "x", "y" * MOST_CHARACTERS, 1).cut
    # What no database takes.
    odd = words.of("b", "k", "o", "a\0b", "half \ud83d", 1)
    with database.transaction() as connection:
        words.record_all(connection, [odd])
        found = words.get(connection, "b")
    assert found is not None
    assert (found.prompt, found.answer) == ("a\ufffdb", "half ?")


def test_words_end_with_their_time_their_number_and_their_owner(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(words, "MOST", 2)
    made = [kept("old"), *(kept(name, owner, 10) for name, owner in (("a", "x"), ("b", "y")))]

    def left() -> set[str]:
        return {name for name in ("old", "a", "b", "c") if words.get(connection, name)}

    with database.transaction() as connection:
        words.record_all(connection, made)
        assert words.purge(connection, KEPT_US) == 1
        assert left() == {"a", "b"}
        words.record_all(connection, [kept("c", "x", 11)])
        assert words.purge(connection, KEPT_US) == 1
        assert left() == {"a", "c"}
        assert words.purge(connection, 0, everything=True, owner="y") == 0
        assert words.purge(connection, 0, everything=True, owner="x") == 2
        assert left() == set()
