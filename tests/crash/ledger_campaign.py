"""The long form of the ledger's crash tests: a thousand kills and more, in `make test-crash`.

Histories of fifty kills each, in turn on tills over SQLite, on gateways' books over SQLite and on
tills over PostgreSQL. Writes docs/campaigns/ledger.json.
"""

import random
import sys
import time
from datetime import date
from pathlib import Path
from tempfile import TemporaryDirectory

from sqlalchemy.engine import URL

from tests.campaigns import record
from tests.crash.spending import Outcome, books, tills
from tests.databases import create_database, postgres_server
from tests.gateway.world import build_world
from tests.tiny import build_tokenizer
from trimtab.store.database import Database

KILLS = 50


def main(histories: int = 21) -> int:
    """Returns the number of violations."""
    chance = random.Random(date.today().toordinal())
    counts = {"histories": 0, "kills": 0, "states": 0, "acknowledgements": 0}
    violations = 0
    with TemporaryDirectory() as name, postgres_server() as server:
        for number in range(histories):
            folder = Path(name) / str(number)
            folder.mkdir()
            started = time.monotonic()
            outcome = one(number, folder, server, chance)
            counts["histories"] += 1
            counts["kills"] += outcome.kills
            counts["states"] += outcome.states
            counts["acknowledgements"] += outcome.acknowledged
            violations += len(outcome.wrong)
            took = time.monotonic() - started
            print(f"history {number + 1} of {histories}: {outcome.states} states, {took:.0f} s")
            for line in outcome.wrong[:5]:
                print(f"  {line}", flush=True)
    print(f"wrote {record('ledger', violations, counts)}")
    return violations


def one(number: int, folder: Path, server: URL, chance: random.Random) -> Outcome:
    if number % 3 == 1:
        world = build_world(folder, build_tokenizer(folder / "base"))
        outcome = books(world, folder, KILLS, chance)
        world.database.close()
        return outcome
    url = URL.create("sqlite", database=str(folder / "ledger.db"))
    if number % 3 == 2:
        url = create_database(server, f"history{number}")
    database = Database(url)
    database.migrate()
    outcome = tills(database, folder, KILLS, chance)
    database.close()
    return outcome


if __name__ == "__main__":
    sys.exit(main(*(int(word) for word in sys.argv[1:])))
