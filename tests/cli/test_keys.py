"""`trimtab keys` on a real home: a secret is shown once, and a key may do what was said."""

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.databases import sqlite_database
from trimtab.cli import main
from trimtab.gateway import keys
from trimtab.gateway.keys import Key
from trimtab.ledger.accounts import budgets_of
from trimtab.store.home import Home

Verb = Callable[..., tuple[int, str, str]]


@pytest.fixture
def verb(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Verb:
    """Its exit code, and what it says on both ways out."""
    sqlite_database(tmp_path / "trimtab.db").close()

    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setenv("COLUMNS", "160")
        monkeypatch.setattr(sys, "argv", ["trimtab", "keys", *arguments, "--home", str(tmp_path)])
        with pytest.raises(SystemExit) as left:
            main()
        assert isinstance(left.value.code, int)
        said = capsys.readouterr()
        return left.value.code, said.out, said.err

    return run


def opens(folder: Path, key: str) -> Key | None:
    database = Home(folder).database()
    with database.read() as connection:
        found = keys.authenticate(connection, key)
    database.close()
    return found


def test_a_key_is_made_listed_rotated_and_revoked(verb: Verb, tmp_path: Path) -> None:
    code, said, beside = verb("create", "ci", "--owner", "team", "--scope", "score")
    first = said.strip()
    assert (code, beside) == (0, "shown once; send it as: Authorization: Bearer KEY\n")
    found = opens(tmp_path, first)
    assert found is not None
    assert (found.name, found.owner, found.scopes) == ("ci", "team", {"score"})

    code, said, _ = verb("rotate", found.id, "--grace", "1h")
    second = said.strip()
    assert (code, opens(tmp_path, first), opens(tmp_path, second)) == (0, found, found)
    third = verb("rotate", found.id, "--grace", "0s")[1].strip()
    assert [opens(tmp_path, key) for key in (first, second)] == [None, None]

    listed = verb("list")[1] + verb("list", "--json")[1]
    assert "ci" in listed
    for key in (first, second, third):
        assert key.split("_", 2)[2] not in listed

    code, said, _ = verb("revoke", found.id)
    assert (code, said, opens(tmp_path, third)) == (0, f"revoked {found.id} (ci)\n", None)
    [row] = json.loads(verb("list", "--json")[1])["keys"]
    assert (row["id"], row["scopes"], row["revoked"] is None) == (found.id, "score", False)
    assert verb("revoke", "00000000")[0] == 2


def test_what_a_key_may_spend_is_kept_with_it(verb: Verb, tmp_path: Path) -> None:
    limits = ("--requests-per-minute", "60", "--tokens-per-minute", "9000", "--dry-run")
    spends = ("--limit-usd", "2.5", "--per", "day", "--expires", "7d")
    made = json.loads(verb("create", "ci", *limits, *spends, "--json")[1])
    found = opens(tmp_path, made["key"])
    assert found is not None
    assert found.expires_us is not None
    assert (found.id, found.limits) == (made["id"], keys.Limits(60, 9000, dry_run=True))
    code, said, _ = verb("budget", "owner", "ci", "10")
    assert (code, said) == (0, "owner:ci, month: $10.00, $0.00 spent\n")
    assert verb("budget", "owner", "ci", "none")[1] == "owner:ci, month: no limit, $0.00 spent\n"
    database = Home(tmp_path).database()
    with database.read() as connection:
        budgets = budgets_of(connection, [f"key:{found.id}"])
    database.close()
    assert ("day", 2_500_000_000) in {(each.period, each.limit_nano) for each in budgets}


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (("create", "ci", "--expires", "soon"), "'soon' is no duration; e.g. 90s, 30m, 24h or 7d"),
        (("create", "ci", "--scope", "everything"), "everything"),
        (("create", "ci", "--limit-usd", "-1"), "-1"),
        (("budget", "key", "nobody", "1"), "no key 'nobody'"),
    ],
)
def test_what_cannot_be_meant_is_refused_in_one_line(
    verb: Verb, arguments: tuple[str, ...], why: str
) -> None:
    code, said, beside = verb(*arguments)
    assert (code, said) == (2, "")
    assert why in beside
    assert beside.count("\n") == 1
