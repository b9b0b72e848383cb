"""Fuzz the gateway with ten thousand cases: `python -m tests.gateway.fuzz_campaign [CASES]`.

Writes docs/campaigns/fuzz.json. A violation is an answer that is a fault of ours, or none that the
document knows, or a stream that says something else than the model did.
"""

import random
import sys
import tempfile
from pathlib import Path

from rich.progress import Progress

from tests.campaigns import record
from tests.gateway.fuzz import fuzz_frames, fuzz_requests, fuzz_streams, target
from tests.tiny import build_base

CASES = 10_000


def main() -> int:
    wanted = int(sys.argv[1]) if len(sys.argv) > 1 else CASES
    violations, number = 0, random.SystemRandom().randrange(2**32)
    print(f"the first seed is {number}")
    with (
        tempfile.TemporaryDirectory() as folder,
        target(Path(folder), build_base(Path(folder) / "base")) as to,
        Progress() as progress,
    ):
        bar = progress.add_task("cases", total=wanted)
        while (done := sum(to.cases.values())) < wanted:
            for fuzz, examples in ((fuzz_requests, 4), (fuzz_frames, 10), (fuzz_streams, 10)):
                try:
                    fuzz(to, examples, number)
                except Exception as error:
                    violations += 1
                    progress.print(f"seed {number}, {fuzz.__name__}: {error}")
            number += 1
            progress.update(bar, completed=sum(to.cases.values()))
            if sum(to.cases.values()) == done:
                break
    print(f"{to.cases}, {violations} violations")
    record("fuzz", violations, to.cases)
    return 1 if violations else 0


if __name__ == "__main__":
    sys.exit(main())
