import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.processes import all_running
from tests.registry.entries import add_version
from trimtab.errors import InUse, NotFound, TrimtabError
from trimtab.registry import deployments, versions
from trimtab.store.database import Connection, Database


def state(connection: Connection, version: str) -> str:
    return versions.get(connection, version).state


def test_a_candidate_goes_live_and_back(database: Database) -> None:
    with database.transaction() as connection:
        base = add_version(connection, None, "unverified")
        version = add_version(connection, "a", "verified")
        first = deployments.create(connection, "desk", "desk", base)
        assert (first.live, first.idle, first.generation) == (base, None, 1)
        assert deployments.create(connection, "desk", "desk", version) == first
        second = deployments.candidate(connection, "desk", version, 1)
        assert (second.live, second.idle, second.generation) == (base, version, 2)
        assert state(connection, version) == "shadow"
        assert deployments.candidate(connection, "desk", version, 2) == second
        third = deployments.promote(connection, "desk", version, 2, "better", {"p": 0.01})
        assert (third.live, third.idle, third.generation) == (version, base, 3)
        assert (state(connection, version), state(connection, base)) == ("live", "retired")
        assert deployments.previous(connection, "desk") == base
        made = deployments.made_live(connection, "desk")
        assert (made.why, made.evidence, made.previous) == ("better", {"p": 0.01}, base)
        fourth = deployments.rollback(connection, "desk", 3, "p95", {})
        assert (fourth.live, fourth.idle, fourth.generation) == (base, version, 4)
        assert (state(connection, version), state(connection, base)) == ("rolled back", "live")
        kinds = [event.kind for event in deployments.events(connection, "desk")]
        assert kinds == ["rolled back", "promoted", "candidate", "created"]
        assert deployments.list(connection) == (fourth,)


def test_a_version_that_is_live_at_one_deployment_goes_live_at_another(
    database: Database,
) -> None:
    """Two projects that learn the same from the same, or one that was given a new name."""
    with database.transaction() as connection:
        base = add_version(connection, None, "unverified")
        version = add_version(connection, "a", "shadow")
        deployments.create(connection, "desk", "desk", base)
        deployments.promote(connection, "desk", version, 1, "better", {})
        deployments.create(connection, "shop", "shop", base)
        tried = deployments.candidate(connection, "shop", version, 1)
        assert (tried.idle, state(connection, version)) == (version, "live")
        assert deployments.candidate(connection, "shop", version, 2) == tried
        assert deployments.promote(connection, "shop", version, 2, "better", {}).live == version
        deployments.rollback(connection, "desk", 2, "p95", {})
        assert state(connection, version) == "live"
        deployments.rollback(connection, "shop", 3, "p95", {})
        assert state(connection, version) == "rolled back"


def test_promoting_what_is_live_changes_nothing(database: Database) -> None:
    with database.transaction() as connection:
        base = add_version(connection, None, "unverified")
        first = deployments.create(connection, "desk", "desk", base)
        assert deployments.promote(connection, "desk", base, 1, "again", {}) == first


def test_a_change_at_another_generation_is_refused_whole(database: Database) -> None:
    with database.transaction() as connection:
        base = add_version(connection, None, "unverified")
        version = add_version(connection, "a", "shadow")
        deployments.create(connection, "desk", "desk", base)
    for wrong in (0, 2):
        with pytest.raises(InUse, match="generation 1"), database.transaction() as connection:
            deployments.promote(connection, "desk", version, wrong, "better", {})
    with database.read() as connection:
        assert deployments.get(connection, "desk").generation == 1
        assert len(deployments.events(connection, "desk")) == 1
        assert state(connection, version) == "shadow"


@pytest.mark.parametrize("unproved", ["unverified", "verified", "rolled back"])
def test_only_what_came_through_shadow_is_promoted(
    database: Database, unproved: versions.State
) -> None:
    with database.transaction() as connection:
        base = add_version(connection, None, "unverified")
        version = add_version(connection, "a", unproved)
        deployments.create(connection, "desk", "desk", base)
    with pytest.raises(TrimtabError, match="cannot become"), database.transaction() as connection:
        deployments.promote(connection, "desk", version, 1, "better", {})
    with database.read() as connection:
        assert deployments.get(connection, "desk").live == base


def test_a_rollback_skips_what_was_rolled_back_and_ends_at_the_first(database: Database) -> None:
    with database.transaction() as connection:
        base = add_version(connection, None, "unverified")
        deployments.create(connection, "desk", "desk", base)
        with pytest.raises(NotFound, match="no older version"):
            deployments.rollback(connection, "desk", 1, "p95", {})
        for generation, name in ((1, "a"), (2, "b")):
            version = add_version(connection, name, "shadow")
            deployments.promote(connection, "desk", version, generation, "better", {})
        assert deployments.rollback(connection, "desk", 3, "p95", {}).live != base
        assert deployments.rollback(connection, "desk", 4, "p95", {}).live == base
        with pytest.raises(NotFound):
            deployments.rollback(connection, "desk", 5, "p95", {})


def test_a_newer_candidate_retires_the_one_in_shadow(database: Database) -> None:
    with database.transaction() as connection:
        base = add_version(connection, None, "unverified")
        old, new = (add_version(connection, name, "verified") for name in "ab")
        deployments.create(connection, "desk", "desk", base)
        deployments.candidate(connection, "desk", old, 1)
        deployments.candidate(connection, "desk", new, 2)
        assert (state(connection, old), state(connection, new)) == ("retired", "shadow")


def test_one_that_is_in_shadow_elsewhere_stays_in_shadow(database: Database) -> None:
    with database.transaction() as connection:
        base = add_version(connection, None, "unverified")
        both, new = (add_version(connection, name, "verified") for name in "ab")
        for name in ("desk", "shop"):
            deployments.create(connection, name, name, base)
            deployments.candidate(connection, name, both, 1)
        deployments.candidate(connection, "desk", new, 2)
        assert (state(connection, both), state(connection, new)) == ("shadow", "shadow")
        deployments.candidate(connection, "shop", new, 2)
        assert (state(connection, both), state(connection, new)) == ("retired", "shadow")


def test_a_version_that_is_live_elsewhere_stays_live(database: Database) -> None:
    with database.transaction() as connection:
        base = add_version(connection, None, "unverified")
        version = add_version(connection, "a", "shadow")
        for name in ("desk", "shop"):
            deployments.create(connection, name, "desk", base)
        deployments.promote(connection, "desk", version, 1, "better", {})
        assert state(connection, base) == "live"
        with pytest.raises(NotFound) as caught:
            deployments.get(connection, "dsek")
        assert "desk, shop" in caught.value.hint


def test_a_version_that_becomes_live_elsewhere_at_the_same_time_stays_live(
    database: Database,
) -> None:
    with database.transaction() as connection:
        base = add_version(connection, None, "unverified")
        first, second = (add_version(connection, name, "shadow") for name in "ab")
        for name in ("desk", "shop"):
            deployments.create(connection, name, "desk", base)
        deployments.promote(connection, "shop", second, 1, "better", {})

    def back_to_the_base() -> None:
        with database.transaction() as connection:
            deployments.promote(connection, "shop", base, 2, "as before", {})

    with ThreadPoolExecutor(1) as pool:
        with database.transaction() as connection:
            deployments.promote(connection, "desk", first, 1, "better", {})
            other = pool.submit(back_to_the_base)
            time.sleep(0.3)
        other.result()
    with database.read() as connection:
        assert deployments.get(connection, "shop").live == base
        assert [state(connection, version) for version in (base, first, second)] == [
            "live",
            "live",
            "retired",
        ]


def test_writers_that_promote_at_once_and_die_leave_one_unbroken_history(
    database: Database, database_url: str
) -> None:
    with database.transaction() as connection:
        base = add_version(connection, None, "unverified")
        version = add_version(connection, "a", "shadow")
        deployments.create(connection, "desk", "desk", base)
    reached = 1
    with all_running("tests.registry.promoter", [[database_url, base, version]] * 3) as writers:
        for goal in (30, 60):
            while reached < goal:
                time.sleep(0.02)
                with database.read() as connection:
                    reached = whole(connection, (base, version))
            writers[goal // 60].kill()
    with database.transaction() as connection:
        whole(connection, (base, version))
        now = deployments.get(connection, "desk")
        other = version if now.live == base else base
        deployments.promote(connection, "desk", other, now.generation, "after the crash", {})
        assert whole(connection, (base, version)) == now.generation + 1


def whole(connection: Connection, both: tuple[str, str]) -> int:
    """The generation of a deployment whose history, slots and states all agree."""
    now = deployments.get(connection, "desk")
    history = list(reversed(deployments.events(connection, "desk")))
    assert [event.generation for event in history] == list(range(1, now.generation + 1))
    live = None
    for event in history:
        assert event.previous == live
        live = event.version_hash
    assert live == now.live
    if now.generation > 1:
        assert {now.live, now.idle} == set(both)
        assert state(connection, now.live) == "live"
        assert now.idle is not None
        assert state(connection, now.idle) == "retired"
    return now.generation
