"""The long form of the crash tests: `make test-crash` kills loops at random instants, many times.

Each round is a chain of kills of one home until its loop ends, and its state is compared with that
of a loop that was never killed. Writes docs/campaigns/crash.json.
"""

import os
import random
import sys
from datetime import date
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.campaigns import record
from tests.crash.killing import Kill, SharedEngine, attempt, preload
from tests.crash.state import state_of
from tests.tiny_project import write_project
from trimtab.flows.steps import STEPS


def main(rounds: int = 10) -> int:
    """Returns the number of violations."""
    # Two threads over so small a model wait for each other on a busy machine.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    preload()
    chance = random.Random(date.today().toordinal())
    kills = violations = 0
    with TemporaryDirectory() as folder:
        reference = Path(folder) / "reference"
        reference.mkdir()
        file = write_project(reference)
        with SharedEngine(reference):
            whole = attempt(file)
        wanted = state_of(reference / ".trimtab")
        for number in range(rounds):
            home = Path(folder) / str(number)
            home.mkdir()
            came, same = chain(home, whole.seconds, wanted, chance)
            kills += came
            violations += not same
            print(f"round {number + 1} of {rounds}: {came} kills, same state: {same}", flush=True)
    print(f"wrote {record('crash', violations, {'rounds': rounds, 'kills': kills})}")
    return violations


def chain(
    home: Path, seconds: dict[str, float], wanted: object, chance: random.Random
) -> tuple[int, bool]:
    """Kill a loop at three random instants of every step; how many came, and how it ended."""
    file = write_project(home)
    came = 0
    with SharedEngine(home):
        for step in STEPS:
            for _ in range(3):
                after = chance.random() * seconds[step.name] * 1.2
                came += attempt(file, Kill(step.name, after_s=after)).killed
        attempt(file)
    return came, state_of(home / ".trimtab") == wanted


if __name__ == "__main__":
    sys.exit(main(*(int(word) for word in sys.argv[1:])))
