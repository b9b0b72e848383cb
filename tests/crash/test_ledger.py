"""The short form of the ledger's campaign: ten kills, every committed state judged."""

import random
from pathlib import Path

from tests.crash.spending import Outcome, books, tills
from tests.gateway.world import build_world
from tests.tiny import build_tokenizer
from trimtab.store.database import Database


def judged(outcome: Outcome, kills: int) -> None:
    assert outcome.wrong == []
    assert outcome.kills == kills
    assert outcome.states > 3 * kills
    assert outcome.acknowledged > kills


def test_killed_tills_never_overspend_and_lose_nothing(database: Database, tmp_path: Path) -> None:
    judged(tills(database, tmp_path, 3, random.Random(1)), 3)


def test_killed_gateways_never_overspend_and_lose_nothing(tmp_path: Path) -> None:
    world = build_world(tmp_path, build_tokenizer(tmp_path / "base"))
    judged(books(world, tmp_path, 4, random.Random(2)), 4)
    world.database.close()
