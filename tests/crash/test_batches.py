"""Workers of batches that are killed lose no line, repeat none, and bill none twice."""

import random
from pathlib import Path

import pytest

from tests.crash import batch_kills
from tests.gateway.world import World, build_world
from tests.tiny import build_base

LINES, KILLS = 100, 10


@pytest.fixture
def world(tmp_path: Path, database_url: str) -> World:
    """On SQLite and on PostgreSQL."""
    return build_world(tmp_path, build_base(tmp_path / "base"), url=database_url)


def test_killed_workers_lose_repeat_and_double_bill_nothing(world: World, tmp_path: Path) -> None:
    chance = random.Random(11)
    batch = batch_kills.accept(world, tmp_path, LINES)
    kills = batch_kills.run(world, chance, KILLS, share=0.6, limit_s=60)
    assert batch_kills.faults(world, batch, LINES) == []
    dead = batch_kills.replay(world)
    assert dead > 0
    kills += batch_kills.run(world, chance, 3, share=0.0, limit_s=60)
    assert kills >= 5
    assert batch_kills.faults(world, batch, LINES) == []
    with world.database.transaction() as connection:
        assert batch_kills.batches.locked(connection, batch).answered == LINES
    world.database.close()
