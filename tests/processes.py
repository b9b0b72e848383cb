"""Other processes for tests: started with `python -m`, and killed without a word."""

import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).parents[1]


@contextmanager
def running(module: str, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """`python -m module arguments`, after it printed its first line; dead afterwards."""
    command = [sys.executable, "-m", module, *arguments]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline(), f"{module} said nothing"
            yield process
        finally:
            process.kill()


@contextmanager
def all_running(
    module: str, each: Sequence[Sequence[str]]
) -> Iterator[list[subprocess.Popen[str]]]:
    """Several of them at once."""
    if not each:
        yield []
        return
    with running(module, *each[0]) as first, all_running(module, each[1:]) as others:
        yield [first, *others]
