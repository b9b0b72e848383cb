import time
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path

import pytest

from tests.registry.entries import BASE, add_base, add_version, spec
from trimtab.errors import NotFound, StoreError, TrimtabError
from trimtab.registry import bases, versions
from trimtab.registry.bases import Base
from trimtab.registry.versions import ModelVersion
from trimtab.store.database import Database


def test_a_version_comes_back_as_it_was_registered(database: Database) -> None:
    version = ModelVersion(spec("a"), "desk", adapter_artifact="b" * 64, run_id="run", created_us=7)
    with database.transaction() as connection:
        add_base(connection)
        assert versions.add(connection, version)
        assert not versions.add(connection, ModelVersion(spec("a"), "another"))
        assert versions.get(connection, version.hash) == version
        assert versions.get(connection, version.hash[:8]) == version
        assert [found.hash for found in versions.list(connection, "desk")] == [version.hash]
        assert versions.list(connection, "another") == ()


def test_of_two_moves_at_once_one_is_refused(database: Database) -> None:
    """The second looked before the first was committed: on PostgreSQL it would undo it."""
    with database.transaction() as connection:
        version = add_version(connection, "a", "shadow")

    def to_canary() -> None:
        with database.transaction() as connection:
            versions.set_state(connection, version, "canary")

    with ThreadPoolExecutor(1) as pool:
        with database.transaction() as connection:
            versions.set_state(connection, version, "live")
            second = pool.submit(to_canary)
            time.sleep(0.3)
        with pytest.raises(TrimtabError, match=r"is live and cannot|no longer shadow"):
            second.result()
    with database.read() as connection:
        assert versions.get(connection, version).state == "live"


def test_a_version_needs_its_base(database: Database) -> None:
    with pytest.raises(StoreError), database.transaction() as connection:
        versions.add(connection, ModelVersion(spec("a"), "desk"))


def test_a_name_that_nobody_has_names_what_comes_near(database: Database) -> None:
    with database.transaction() as connection:
        known = add_version(connection, "a", "verified")
        wrong = ("0" if known[0] != "0" else "1") + known[1:]
        with pytest.raises(NotFound) as caught:
            versions.get(connection, wrong)
        assert known[:12] in caught.value.hint
        for name in ("abc", "", "live", "%" * 8, known[:7]):
            with pytest.raises(NotFound, match="not the hash"):
                versions.get(connection, name)


def test_the_rollout_goes_its_way_and_no_other(database: Database) -> None:
    way: list[versions.State] = ["unverified", "verified", "shadow", "canary", "live", "retired"]
    with database.transaction() as connection:
        version = add_version(connection, "a", "unverified")
        for here, following in pairwise(way):
            for other in set(way) - {here, following} - {"live", "retired", "shadow"}:
                with pytest.raises(TrimtabError, match="cannot become"):
                    versions.set_state(connection, version, other)
            versions.set_state(connection, version, following)
            versions.set_state(connection, version, following)
            assert versions.get(connection, version).state == following


def test_only_a_base_goes_live_unproved(database: Database) -> None:
    with database.transaction() as connection:
        versions.set_state(connection, add_version(connection, None, "unverified"), "live")
        with pytest.raises(TrimtabError):
            versions.set_state(connection, add_version(connection, "a", "unverified"), "live")
        with pytest.raises(TrimtabError):
            versions.set_state(connection, add_version(connection, "b", "verified"), "live")


def test_a_base_that_moved_is_found_where_it_lies(database: Database) -> None:
    with database.transaction() as connection:
        base = add_base(connection)
        assert bases.get(connection, BASE) == base
        moved = Base(BASE, "tiny", Path("/elsewhere"), {"hub": "x/y"}, 1234, created_us=9)
        bases.add(connection, moved)
        found = bases.get(connection, BASE)
        assert (found.folder, found.created_us) == (Path("/elsewhere"), 1)
        with pytest.raises(NotFound):
            bases.get(connection, "f" * 64)
