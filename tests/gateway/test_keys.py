import ast
import hashlib
import hmac
import re
from pathlib import Path
from typing import NoReturn

import httpx
import pytest

import trimtab
from tests.gateway.world import World
from trimtab.errors import NotFound, UserError
from trimtab.gateway import keys
from trimtab.gateway.keys import Limits
from trimtab.ledger.accounts import account
from trimtab.store.clock import now_us


def test_a_key_is_known_again_and_its_secret_is_not_kept(world: World, tmp_path: Path) -> None:
    with world.database.transaction() as connection:
        created = keys.create(connection, "ci", "team-a")
        found = keys.authenticate(connection, created.key)
    assert re.fullmatch(r"tt_[0-9a-f]{8}_[A-Za-z0-9_-]{43}", created.key)
    assert found is not None
    assert (found.id, found.name, found.owner) == (created.id, "ci", "team-a")
    secret = created.key.split("_", 2)[2]
    stored = b"".join(file.read_bytes() for file in tmp_path.glob("trimtab.db*"))
    assert secret.encode() not in stored
    assert hashlib.sha256(secret.encode()).hexdigest().encode() in stored


def test_nothing_but_the_whole_key_opens(world: World) -> None:
    key = world.key.key
    last = "A" if key[-2] != "A" else "B"
    other = world.new_key()
    mixed = key[:12] + other.key[12:]
    tries = [
        "",
        "tt_",
        key[:-1],
        key + "a",
        key.upper(),
        key[:-2] + last + key[-1],
        mixed,
        "ü" * 60,
    ]
    tries += [key + "\n", f"tt_{'0' * 8}_{key[12:]}"]
    with world.database.read() as connection:
        assert [keys.authenticate(connection, presented) for presented in tries] == [None] * 10


def test_a_revoked_key_stays_shut_and_keeps_its_first_date(world: World) -> None:
    with world.database.transaction() as connection:
        first = keys.revoke(connection, world.key.id)
        again = keys.revoke(connection, world.key.id)
        assert keys.authenticate(connection, world.key.key) is None
        assert first.revoked_us is not None
        assert first == again
        assert [key.id for key in keys.list(connection)] == [world.key.id]


def test_an_unknown_key_cannot_be_revoked(world: World) -> None:
    with world.database.transaction() as connection, pytest.raises(NotFound, match="no key 'x'"):
        keys.revoke(connection, "x")


@pytest.mark.parametrize(("limit", "nano"), [(None, None), ("0.5", 500_000_000), (2, 2 * 10**9)])
def test_a_key_opens_its_account(world: World, limit: str | int | None, nano: int | None) -> None:
    with world.database.transaction() as connection:
        created = keys.create(connection, "ci", "team-a", limit)
        assert account(connection, created.id).limit_nano == nano


@pytest.mark.parametrize("name", ["", "a\nb", "x" * 65])
def test_an_unfit_name_is_refused(world: World, name: str) -> None:
    with world.database.transaction() as connection, pytest.raises(UserError, match="name"):
        keys.create(connection, name, "team-a")


def test_a_key_may_do_what_its_scopes_say(world: World) -> None:
    with world.database.transaction() as connection:
        usual = keys.create(connection, "ci", "team-a")
        narrow = keys.create(connection, "ci", "team-a", scopes=["score"])
        scopes = {key.id: key.scopes for key in keys.list(connection)}
        for unfit in (["admin"], []):
            with pytest.raises(UserError, match="scope"):
                keys.create(connection, "ci", "team-a", scopes=unfit)
    assert scopes[usual.id] == {"generate", "score", "models", "batches", "embed"}
    assert scopes[narrow.id] == {"score"}


def test_an_expired_key_opens_nothing(world: World) -> None:
    with world.database.transaction() as connection:
        now = now_us()
        over = keys.create(connection, "ci", "team-a", expires_us=now)
        good = keys.create(connection, "ci", "team-a", expires_us=now + 60_000_000)
        assert keys.authenticate(connection, over.key) is None
        assert keys.authenticate(connection, good.key) is not None


def test_a_rotated_key_opens_with_both_secrets_until_the_grace_is_over(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    with world.database.transaction() as connection:
        first = keys.create(connection, "ci", "team-a", "1")
        second = keys.rotate(connection, first.id, grace_us=60_000_000)
        assert second.id == first.id
        assert second.key != first.key
        for created in (first, second):
            found = keys.authenticate(connection, created.key)
            assert found is not None
            assert found.id == first.id
        third = keys.rotate(connection, first.id, grace_us=60_000_000)
        # Only the secret before this one has a grace.
        assert keys.authenticate(connection, first.key) is None
        assert keys.authenticate(connection, second.key) is not None
        later = now_us() + 60_000_001
        monkeypatch.setattr("trimtab.gateway.keys.now_us", lambda: later)
        assert keys.authenticate(connection, second.key) is None
        assert keys.authenticate(connection, third.key) is not None
        assert account(connection, first.id).limit_nano == 10**9


def test_a_revoked_key_is_not_rotated(world: World) -> None:
    with world.database.transaction() as connection:
        keys.revoke(connection, world.key.id)
        with pytest.raises(UserError, match="revoked"):
            keys.rotate(connection, world.key.id)
        with pytest.raises(NotFound):
            keys.rotate(connection, "nobody")


@pytest.mark.parametrize("most", [0, -1, 10**10])
def test_a_limit_that_cannot_be_kept_is_refused(world: World, most: int) -> None:
    with world.database.transaction() as connection, pytest.raises(UserError, match="a minute"):
        keys.create(connection, "ci", "team-a", limits=Limits(requests_per_minute=most))


class Digest(str):
    """A hash of a secret that may be compared in constant time alone."""

    __hash__ = str.__hash__

    def __eq__(self, other: object) -> NoReturn:
        raise AssertionError(f"compared with {other!r}, for as long as they are the same")

    __ne__ = __lt__ = __le__ = __gt__ = __ge__ = __eq__


def test_secrets_are_compared_in_constant_time_whatever_they_are(
    world: World, client: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Over hashes of one length, as often for a key that nobody has."""
    compared: list[tuple[int, int]] = []
    hash_, compare = keys._hash, hmac.compare_digest

    def spied(shown: str, kept: str) -> bool:
        compared.append((len(shown), len(kept)))
        return compare(shown, kept)

    with world.database.transaction() as connection:
        rotated = keys.create(connection, "a", "a")
        renewed = keys.rotate(connection, rotated.id, grace_us=60_000_000)
        over = keys.create(connection, "b", "b")
        keys.rotate(connection, over.id, grace_us=0)
        revoked = keys.create(connection, "c", "c")
        keys.revoke(connection, revoked.id)
    monkeypatch.setattr(keys, "_hash", lambda secret: Digest(hash_(secret)))
    monkeypatch.setattr(hmac, "compare_digest", spied)
    right = world.key.key
    nobody = f"tt_{'0' * 8}_{right[12:]}"
    wrong = right[:12] + right[12:][::-1]
    opens = {right: 200, rotated.key: 200, renewed.key: 200}
    for key in (*opens, over.key, revoked.key, nobody, wrong):
        compared.clear()
        for path in ("/v1/models", "/v1/files"):
            answer = client.get(path, headers={"Authorization": f"Bearer {key}"})
            assert answer.status_code == opens.get(key, 401)
        assert compared == [(64, 64)] * 4


# What a secret, its hash, or what somebody shows in its place is called here.
SECRET = re.compile(r"secret|presented|password|bearer|previous_hash|api_key", re.IGNORECASE)


def test_no_secret_is_compared_in_any_other_way() -> None:
    """In the code, and in what it has a database compare."""
    compared = []
    for file in Path(trimtab.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_bytes())):
            if isinstance(node, ast.Compare) and not _is_absence(node):
                named = {
                    *_names(node.left),
                    *(n for each in node.comparators for n in _names(each)),
                }
                compared += [(file.name, name) for name in named if SECRET.search(name)]
    assert compared == []


def _is_absence(node: ast.Compare) -> bool:
    return all(isinstance(each, ast.Is | ast.IsNot) for each in node.ops)


def _names(node: ast.expr) -> list[str]:
    return [
        each.id if isinstance(each, ast.Name) else each.attr
        for each in ast.walk(node)
        if isinstance(each, ast.Name | ast.Attribute)
    ]
