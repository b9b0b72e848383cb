"""Fuzz the gateway with ten thousand requests, and frames and streams beside them:
`python -m tests.gateway.fuzz_campaign [REQUESTS]`.

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

REQUESTS = 10_000
# A round's examples for each operation of the document, and of frames and of streams. Most of the
# time of a short round is spent on making the strategies of every operation anew.
EACH, FRAMES, STREAMS = 50, 170, 170


def main() -> int:
    wanted = int(sys.argv[1]) if len(sys.argv) > 1 else REQUESTS
    violations, number = 0, random.SystemRandom().randrange(2**32)
    print(f"the first seed is {number}")
    with (
        tempfile.TemporaryDirectory() as folder,
        target(Path(folder), build_base(Path(folder) / "base")) as to,
        Progress() as progress,
    ):
        bar = progress.add_task("requests", total=wanted)
        kinds = ((fuzz_requests, EACH), (fuzz_frames, FRAMES), (fuzz_streams, STREAMS))
        while (done := to.cases.get("requests", 0)) < wanted:
            for fuzz, examples in kinds:
                try:
                    fuzz(to, examples, number)
                # Several failures of one request come as a group, which is no Exception.
                except (Exception, BaseExceptionGroup) as error:
                    violations += 1
                    progress.print(f"seed {number}, {fuzz.__name__}: {error}")
            number += 1
            progress.update(bar, completed=to.cases.get("requests", 0))
            if to.cases.get("requests", 0) == done:
                break
    print(f"{to.cases}, {violations} violations")
    record("fuzz", violations, to.cases)
    return 1 if violations else 0


if __name__ == "__main__":
    sys.exit(main())
