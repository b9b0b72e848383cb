from collections.abc import Callable
from pathlib import Path

import pytest

from tests.deploy.test_shadow import timed
from tests.evaluate.made import holdout
from trimtab.canonical import short
from trimtab.deploy.promote import enter_shadow, mark_verified, promote, rollback
from trimtab.deploy.shadow import judge_shadow
from trimtab.deploy.verify import Verification
from trimtab.errors import InUse, NotFound, TrimtabError
from trimtab.evaluate.evidence import gather
from trimtab.evaluate.gate import Gate, decide
from trimtab.registry import bases, deployments, versions
from trimtab.registry.identity import VersionSpec
from trimtab.registry.versions import ModelVersion
from trimtab.store.database import Database

BASE = "b" * 64
PASSED = judge_shadow(timed(*[100.0] * 20), 1200)
FAILED = judge_shadow([], 1200)
VERIFIED = Verification(True, "", "trimtab", 1000, 1e-4, 1e-6, 0.5, 1e-6, 1e-4)


def spec(adapter: str | None) -> VersionSpec:
    template = {"chat_template": "{{ messages }}", "system": ""}
    return VersionSpec(BASE, adapter, "d" * 64, template, {"max_tokens": 48, "stop_tokens": [2]})  # type: ignore[arg-type]


LIVE, NEW, NEWER = (spec(adapter).hash for adapter in (None, "1" * 64, "2" * 64))


def gate(candidate: str = NEW, incumbent: str = LIVE, right: int = 40) -> Gate:
    """Better on 40 items, unless fewer are right."""
    reports = (
        holdout(candidate, [1] * right + [0] * (40 - right)),
        holdout(incumbent, [0] * 40),
    )
    return decide(gather(*reports, measure="exact_match", p95_ms=1200))


@pytest.fixture
def desk(database: Database) -> Database:
    """A deployment that answers with its base, and two verified candidates."""
    with database.transaction() as connection:
        bases.add(connection, bases.Base(BASE, "tiny", Path("/base"), {}, 1))
        for adapter in (None, "1" * 64, "2" * 64):
            versions.add(connection, ModelVersion(spec(adapter), "support-desk"))
            mark_verified(connection, spec(adapter).hash, VERIFIED)
        deployments.create(connection, "desk", "support-desk", LIVE)
    return database


def passage(desk: Database, candidate: str = NEW, incumbent: str = LIVE) -> deployments.Deployment:
    """Through gate, shadow and promotion, each step in a transaction of its own."""
    with desk.transaction() as connection:
        tried = enter_shadow(connection, "desk", gate(candidate, incumbent))
        assert tried is not None
    with desk.transaction() as connection:
        verdict = gate(candidate, incumbent)
        return promote(connection, "desk", tried.generation, verdict, PASSED).deployment


def state(desk: Database, version: str) -> str:
    with desk.read() as connection:
        return versions.get(connection, version).state


def unchanged(desk: Database, act: Callable[[], object]) -> None:
    """`act` raises or not; the deployment's row and events stay as they were."""
    with desk.read() as connection:
        before = (deployments.get(connection, "desk"), deployments.events(connection, "desk"))
    act()
    with desk.read() as connection:
        after = (deployments.get(connection, "desk"), deployments.events(connection, "desk"))
    assert before == after


def test_a_better_candidate_comes_through_and_the_version_before_stays_warm(
    desk: Database,
) -> None:
    changed = passage(desk)
    assert (changed.live, changed.idle) == (NEW, LIVE)
    assert (state(desk, NEW), state(desk, LIVE)) == ("live", "retired")
    with desk.read() as connection:
        event = deployments.made_live(connection, "desk")
    assert event.why == gate().reason
    assert event.evidence["gate"] == gate().hash
    assert event.evidence["findings"]["holdout"]["candidate"] == 1.0
    assert event.evidence["shadow"]["passed"] is True


def test_promoting_what_is_live_changes_nothing_and_says_so(desk: Database) -> None:
    now = passage(desk)

    def again() -> None:
        with desk.transaction() as connection:
            found = promote(connection, "desk", now.generation - 1, gate(), PASSED)
            assert (found.promoted, found.changed) == (True, False)
            assert found.why == f"{short(NEW)} is live already"
            assert enter_shadow(connection, "desk", gate()) == now

    unchanged(desk, again)


def test_only_better_enters_the_shadow(desk: Database) -> None:
    def not_better() -> None:
        with desk.transaction() as connection:
            assert gate(right=2).verdict == "not worse"
            assert enter_shadow(connection, "desk", gate(right=2)) is None

    unchanged(desk, not_better)
    assert state(desk, NEW) == "verified"


def test_only_better_and_a_passed_shadow_are_promoted(desk: Database) -> None:
    with desk.transaction() as connection:
        tried = enter_shadow(connection, "desk", gate())
        assert tried is not None

    def refused() -> None:
        with desk.transaction() as connection:
            failed = promote(connection, "desk", tried.generation, gate(), FAILED)
            worse = promote(connection, "desk", tried.generation, gate(right=2), PASSED)
        assert (
            (failed.promoted, failed.changed) == (worse.promoted, worse.changed) == (False, False)
        )
        assert failed.why == "shadow: no prompt was answered by both versions"
        assert worse.why == gate(right=2).reason

    unchanged(desk, refused)
    assert state(desk, NEW) == "shadow"


def test_a_candidate_that_skipped_the_shadow_is_refused(desk: Database) -> None:
    def skips() -> None:
        with (
            pytest.raises(TrimtabError, match="is verified and cannot become live"),
            desk.transaction() as connection,
        ):
            promote(connection, "desk", 1, gate(), PASSED)

    unchanged(desk, skips)


def test_a_gate_against_a_version_that_is_no_longer_live_is_refused(desk: Database) -> None:
    passage(desk, NEW)

    def stale() -> None:
        with pytest.raises(InUse, match="the gate compared with"), desk.transaction() as connection:
            enter_shadow(connection, "desk", gate(NEWER, LIVE))

    unchanged(desk, stale)


def test_of_two_promotions_from_one_generation_one_wins(desk: Database) -> None:
    with desk.transaction() as connection:
        first = enter_shadow(connection, "desk", gate(NEW))
        enter_shadow(connection, "desk", gate(NEWER))
        assert first is not None

    def late() -> None:
        with pytest.raises(InUse, match="is at generation"), desk.transaction() as connection:
            promote(connection, "desk", first.generation, gate(NEW), PASSED)

    unchanged(desk, late)


def test_a_rollback_brings_back_the_version_before_once(desk: Database) -> None:
    passage(desk)
    with desk.transaction() as connection:
        back = rollback(connection, "desk", NEW, "p95 above the target", {"p95_ms": 1500})
    assert (back.live, back.idle) == (LIVE, NEW)
    assert (state(desk, LIVE), state(desk, NEW)) == ("live", "rolled back")

    def again() -> None:
        with desk.transaction() as connection:
            assert rollback(connection, "desk", NEW, "p95 above the target") == back

    unchanged(desk, again)


def test_where_no_older_version_stands_nothing_is_rolled_back(desk: Database) -> None:
    def alone() -> None:
        with pytest.raises(NotFound, match="no older version"), desk.transaction() as connection:
            rollback(connection, "desk", LIVE, "errors")

    unchanged(desk, alone)


def test_a_failed_verification_leaves_the_version_unverified(desk: Database) -> None:
    other = spec("3" * 64)
    failed = Verification(
        False, "the adapter does nothing", "trimtab", 9, 1e-4, 0.0, 0.0, 0.0, 1e-4
    )
    with desk.transaction() as connection:
        versions.add(connection, ModelVersion(other, "support-desk"))
        assert not mark_verified(connection, other.hash, failed)
    assert state(desk, other.hash) == "unverified"
    with desk.transaction() as connection:
        assert mark_verified(connection, other.hash, VERIFIED)
        assert mark_verified(connection, NEW, VERIFIED)
    assert state(desk, other.hash) == "verified"
