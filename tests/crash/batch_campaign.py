"""The long form of the batches' crash test: `make test-crash` kills workers some hundred times.

Each round is a batch over an engine that dies now and then, worked by two processes of which one is
killed again and again; then its dead letters are replayed, with kills too. Writes
docs/campaigns/batches.json.
"""

import random
import sys
from datetime import date
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.campaigns import record
from tests.crash import batch_kills
from tests.gateway.world import build_world
from tests.tiny import build_base

LINES, KILLS = 400, 40


def main(rounds: int = 10) -> int:
    """Returns the number of violations."""
    chance = random.Random(date.today().toordinal())
    kills = violations = replayed = 0
    with TemporaryDirectory() as folder:
        base = build_base(Path(folder) / "base")
        for number in range(rounds):
            home = Path(folder) / str(number)
            home.mkdir()
            world = build_world(home, base)
            batch = batch_kills.accept(world, home, LINES)
            came = batch_kills.run(world, chance, KILLS, share=0.3, limit_s=600)
            found = batch_kills.faults(world, batch, LINES)
            replayed += batch_kills.replay(world)
            came += batch_kills.run(world, chance, KILLS // 4, share=0.0, limit_s=600)
            found += batch_kills.faults(world, batch, LINES)
            world.database.close()
            kills += came
            violations += len(found)
            told = "; ".join(found) or "every line ended once and was paid for once"
            print(f"round {number + 1} of {rounds}: {came} kills, {told}", flush=True)
    counts = {"rounds": rounds, "lines": rounds * LINES, "replays": replayed, "kills": kills}
    print(f"wrote {record('batches', violations, counts)}")
    return violations


if __name__ == "__main__":
    sys.exit(main(*(int(word) for word in sys.argv[1:])))
