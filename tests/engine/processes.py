"""Engine processes for tests: started for real, and never left behind."""

import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

# Of a busy machine, where an idle one needs a tenth of it.
DEADLINE_S = 120.0


@contextmanager
def engine_process(
    base: Path, socket: Path, holds: str = "--base"
) -> Iterator[subprocess.Popen[str]]:
    """A process that said "ready"; it is killed at the end, if it is still there."""
    with start_engine(base, socket, holds) as process:
        assert process.stdout is not None
        try:
            assert process.stdout.readline() == "ready\n"
            yield process
        finally:
            process.kill()


def start_engine(base: Path, socket: Path, holds: str = "--base") -> subprocess.Popen[str]:
    where = ["--socket", str(socket), holds, str(base)]
    return subprocess.Popen(
        [sys.executable, "-m", "trimtab.engine.process", *where],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def stop_engine(process: subprocess.Popen[str]) -> tuple[str, str]:
    """Ask it to leave; returns what else it had said on stdout, and on stderr."""
    process.send_signal(signal.SIGTERM)
    return process.communicate(timeout=DEADLINE_S)
