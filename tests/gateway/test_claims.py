"""Idempotency-Key against a model of what the draft says: one answer for one name and body."""

import tempfile
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule

from tests.databases import sqlite_database
from trimtab.gateway import replays
from trimtab.gateway.problems import Problem
from trimtab.gateway.replays import CLAIM_US, KEPT_US, Claim, Replay

NAMES = ("a", "b")
BODIES = ("one", "two")


@dataclass
class Row:
    body: str
    request: str
    answer: str | None
    until: int


class Claiming(RuleBasedStateMachine):
    """Several gateways at one table: they claim, keep, release, beat, die; time passes."""

    def __init__(self) -> None:
        super().__init__()
        self._folder = tempfile.TemporaryDirectory()
        self._database = sqlite_database(Path(self._folder.name) / "c.db")
        self._now = 10**15
        self._patch = pytest.MonkeyPatch()
        self._patch.setattr(replays, "database_now", lambda _: self._now)
        self._rows: dict[tuple[str, str], Row] = {}
        self._working: list[Claim] = []
        self._number = 0

    def teardown(self) -> None:
        self._database.close()
        self._folder.cleanup()
        self._patch.undo()

    @rule(key=st.sampled_from("xy"), name=st.sampled_from(NAMES), body=st.sampled_from(BODIES))
    def ask(self, key: str, name: str, body: str) -> None:
        self._number += 1
        wanted = Claim(key, name, body, f"r{self._number}", "gateway")
        row = self._rows.get((key, name))
        if row is not None and row.until <= self._now:
            row = None
        status, answer = 0, None
        with self._database.transaction(durable=False) as connection:
            try:
                answer = replays.claim(connection, wanted)
            except Problem as problem:
                status = problem.status
        if row is None:
            assert (status, answer) == (0, None)
            until = self._now + CLAIM_US
            self._rows[key, name] = Row(body, wanted.request_id, None, until)
            self._working.append(wanted)
        elif row.body != body:
            assert status == 422
        elif row.answer is None:
            assert status == 409
        else:
            assert (status, answer) == (0, row.answer)

    @precondition(lambda self: self._working)
    @rule(which=st.integers(0, 100), end=st.sampled_from(["keep", "release", "die"]))
    def finish(self, which: int, end: str) -> None:
        """Only who holds the row still ends it: a claim that expired may be another's by now."""
        claim = self._working.pop(which % len(self._working))
        row = self._rows.get((claim.key_id, claim.name))
        mine = row is not None and row.request == claim.request_id
        with self._database.transaction(durable=False) as connection:
            if end == "keep":
                Replay(claim, lambda: f"of {claim.request_id}").keep(connection)
                if mine and row is not None:
                    row.answer, row.until = f"of {claim.request_id}", self._now + KEPT_US
            elif end == "release":
                replays.release(connection, claim)
                if mine:
                    del self._rows[claim.key_id, claim.name]

    @rule()
    def beat(self) -> None:
        until = self._now + CLAIM_US
        with self._database.transaction(durable=False) as connection:
            replays.beat(connection, [claim.request_id for claim in self._working], until)
        for claim in self._working:
            row = self._rows.get((claim.key_id, claim.name))
            if row is not None and row.request == claim.request_id:
                row.until = until

    @rule(share=st.floats(0, 1.2), of=st.sampled_from([CLAIM_US, KEPT_US]))
    def wait(self, share: float, of: int) -> None:
        self._now += int(share * of)

    @rule(key=st.sampled_from(["x", "y", None]))
    def purge(self, key: str | None) -> None:
        """What has expired goes, and of the named key whatever holds words."""
        gone = [
            place
            for place, row in self._rows.items()
            if row.until <= self._now or (place[0] == key and row.answer is not None)
        ]
        all_of = None if key is None else [key]
        with self._database.transaction(durable=False) as connection:
            assert replays.purge(connection, all_of=all_of) == len(gone)
        for place in gone:
            del self._rows[place]


Claiming.TestCase.settings = settings(max_examples=6, stateful_step_count=50, deadline=None)
TestClaiming = Claiming.TestCase
