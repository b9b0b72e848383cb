"""The meters of several keys against a model in exact fractions: any history, one transaction after
another or several requests in one."""

import tempfile
from fractions import Fraction
from pathlib import Path

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from tests.databases import sqlite_database
from trimtab.gateway.billing.gcra import PERIOD_US
from trimtab.gateway.billing.limits import Meters, Verdict
from trimtab.gateway.keys import Key, Limits
from trimtab.gateway.tables import meters

KEYS = {
    "both": Key("both", "n", "o", 0, None, limits=Limits(3, 50)),
    "requests": Key("requests", "n", "o", 0, None, limits=Limits(2, None)),
    "dry": Key("dry", "n", "o", 0, None, limits=Limits(2, 30, dry_run=True)),
    "free": Key("free", "n", "o", 0, None),
}


def quotas(key: Key) -> dict[str, int]:
    limits = {"requests": key.limits.requests_per_minute, "tokens": key.limits.tokens_per_minute}
    return {kind: quota for kind, quota in limits.items() if quota is not None}


class Metering(RuleBasedStateMachine):
    """The model is a bucket of whole units that leaks `quota` a minute, kept as a fraction."""

    def __init__(self) -> None:
        super().__init__()
        self._folder = tempfile.TemporaryDirectory()
        self._database = sqlite_database(Path(self._folder.name) / "m.db")
        self._now = 10**15
        self._full: dict[tuple[str, str], Fraction] = {}

    def teardown(self) -> None:
        self._database.close()
        self._folder.cleanup()

    @rule(
        wanted=st.lists(
            st.tuples(st.sampled_from(sorted(KEYS)), st.integers(1, 60), st.booleans()),
            min_size=1,
            max_size=4,
        )
    )
    def ask(self, wanted: list[tuple[str, int, bool]]) -> None:
        """Several requests in one transaction; a budget refuses some of them in the end."""
        with self._database.transaction(durable=False) as connection:
            found = Meters(connection, [KEYS[name] for name, _, _ in wanted], self._now)
            for name, tokens, affordable in wanted:
                key = KEYS[name]
                verdict = found.ask(key, tokens)
                self._judge(key, tokens, verdict)
                if affordable and not verdict.enforced:
                    found.take(key, verdict)
                    self._take(key, tokens, verdict.refused is not None)
            found.write()

    @rule(name=st.sampled_from(sorted(KEYS)), tokens=st.integers(-5, 60))
    def give_back(self, name: str, tokens: int) -> None:
        with self._database.transaction(durable=False) as connection:
            found = Meters(connection, [KEYS[name]], self._now)
            found.give_back(KEYS[name], tokens)
            found.write()
        if "tokens" in quotas(KEYS[name]) and tokens > 0:
            level = self._full.get((name, "tokens"), Fraction(0))
            self._full[name, "tokens"] = max(Fraction(0), level - tokens)

    @rule(seconds=st.floats(0, 70))
    def wait(self, seconds: float) -> None:
        passed = int(seconds * 1e6)
        self._now += passed
        for place, level in self._full.items():
            leaked = Fraction(passed * quotas(KEYS[place[0]])[place[1]], PERIOD_US)
            self._full[place] = max(Fraction(0), level - leaked)

    @invariant()
    def what_is_kept_is_the_model(self) -> None:
        with self._database.read() as connection:
            for row in connection.execute(meters.select()):
                quota = quotas(KEYS[row.key_id])[row.kind]
                drained = row.level - (self._now - row.updated_us) * quota
                kept = Fraction(max(0, drained), PERIOD_US)
                assert kept == self._full[row.key_id, row.kind]
                assert kept <= quota

    def _judge(self, key: Key, tokens: int, verdict: Verdict) -> None:
        asked = {"requests": 1, "tokens": tokens}
        over = [
            kind
            for kind, quota in quotas(key).items()
            if self._full.get((key.id, kind), Fraction(0)) + asked[kind] > quota
        ]
        assert verdict.refused == (over[0] if over else None)
        assert verdict.enforced == (bool(over) and not key.limits.dry_run)
        assert verdict.readings.keys() == quotas(key).keys()
        headers = verdict.headers()
        assert bool(headers) == bool(quotas(key))
        assert ("Retry-After" in headers) == (
            verdict.enforced and asked[over[0]] <= quotas(key)[over[0]]
        )
        assert headers.get("Trimtab-Would-Refuse") == (
            over[0] if over and key.limits.dry_run else None
        )

    def _take(self, key: Key, tokens: int, over: bool) -> None:
        for kind, quota in quotas(key).items():
            units = 1 if kind == "requests" else tokens
            level = self._full.get((key.id, kind), Fraction(0)) + units
            # A dry run serves what is over, and its bucket is full then.
            self._full[key.id, kind] = min(Fraction(quota), level) if over else level


Metering.TestCase.settings = settings(max_examples=6, stateful_step_count=40, deadline=None)
TestMetering = Metering.TestCase


def test_the_headers_tell_of_every_limit_and_of_the_one_that_refused(tmp_path: Path) -> None:
    database = sqlite_database(tmp_path / "m.db")
    key = KEYS["both"]
    with database.transaction() as connection:
        found = Meters(connection, [key], 10**15)
        first = found.ask(key, 20)
        policy = '"requests";q=3;w=60, "tokens";q=50;w=60'
        now = '"requests";r=2;t=20, "tokens";r=30;t=24'
        assert first.headers() == {"RateLimit-Policy": policy, "RateLimit": now}
        found.take(key, first)
        refused = found.ask(key, 40)
        assert refused.headers() == {
            "RateLimit-Policy": policy,
            "RateLimit": now,
            "Retry-After": "12",
        }
        assert refused.readings["requests"].retry_s == 0
    database.close()


def test_a_second_is_the_least_that_is_told_and_one_token_comes_back(tmp_path: Path) -> None:
    database = sqlite_database(tmp_path / "m.db")
    key = Key("k", "n", "o", 0, None, limits=Limits(None, 60))
    with database.transaction() as connection:
        found = Meters(connection, [key], 10**15)
        found.take(key, found.ask(key, 60))
        assert found.ask(key, 1).headers()["Retry-After"] == "1"
        found.give_back(key, 1)
        assert found.ask(key, 1).refused is None
    database.close()
