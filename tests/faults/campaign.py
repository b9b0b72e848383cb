"""A thousand clients that vanish at random, and many requests after one another, in the long form.

    make test-clients

Each client leaves at an instant of its own: before the answer's head, in the middle of a stream,
at its end. After each wave nothing is held, nothing runs, no connection or descriptor stands, and
the ledger is the sum of the log. Writes docs/campaigns/clients.json.
"""

import random
import sys
from datetime import date
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.campaigns import record
from tests.faults.test_upstream import Way, built, check_books, descriptors, vanish
from tests.gateway.world import until
from tests.tiny import build_tokenizer

WAVE = 50


def main(clients: int = 1000) -> int:
    """Returns the number of violations."""
    chance = random.Random(date.today().toordinal())
    wrong: list[str] = []
    with TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "home").mkdir()
        with built(folder / "home", build_tokenizer(folder / "base")) as way:
            way.declare(None, deadline_s=60.0)
            assert way.client.get("/readyz").status_code == 200
            way.echo.words, way.echo.pause_s = 100, 0.005
            vanish(way, WAVE, chance)  # the pools have their sizes after this
            way.rest()
            files = descriptors()
            for number in range(clients // WAVE):
                vanish(way, WAVE, chance)
                wrong += left(way, files)
                print(f"{(number + 1) * WAVE} of {clients} have vanished: {wrong}", flush=True)
    counts = {"clients": clients, "waves": clients // WAVE}
    print(f"wrote {record('clients', len(wrong), counts)}")
    return len(wrong)


def left(way: Way, files: int) -> list[str]:
    """What a wave left behind."""
    try:
        way.rest()
        check_books(way)
        until(lambda: descriptors() <= files + 2)
    except AssertionError as error:
        return [
            f"{error}: {way.world.account()}, {way.echo.running} running, {way.proxy.open} open"
        ]
    return []


if __name__ == "__main__":
    sys.exit(main(*(int(word) for word in sys.argv[1:])))
