"""What a script is told when it is interrupted. The codes 0, 1 and 2 are asked of the verbs one by
one, and 3 of a loop that ends without a promotion (tests/loop/test_tiny_loop.py)."""

import os
import signal
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace

import pytest

from trimtab.cli import app
from trimtab.gateway import keys
from trimtab.store.home import Home

TRIMTAB = [sys.executable, "-m", "trimtab"]


def test_an_interruption_is_130_and_says_what_to_do(tmp_path: Path) -> None:
    """Ctrl-C while it reads: the project file is a pipe that nobody writes into."""
    pipe = tmp_path / "trimtab.yaml"
    os.mkfifo(pipe)
    command = [*TRIMTAB, "check", str(pipe)]
    with subprocess.Popen(
        command, stderr=subprocess.PIPE, text=True, preexec_fn=_heed_interruptions
    ) as process:
        # Opens once the other end is opened for reading.
        with pipe.open("w"):
            process.send_signal(signal.SIGINT)
            assert process.stderr is not None
            told = process.stderr.read()
        assert process.wait(10) == 130
    # The line on which a terminal shows ^C is ended first.
    assert told == "\ntrimtab: interrupted - run the same command again: it goes on from here\n"


@pytest.mark.parametrize("way", [[], ["--json"]])
def test_a_reader_that_left_is_no_fault(tmp_path: Path, way: list[str]) -> None:
    """`trimtab keys list | true`: of a table, and of JSON."""
    with closing(Home(tmp_path).database()) as database, database.transaction() as connection:
        keys.create(connection, "ci", "ci")
    read, write = os.pipe()
    os.close(read)
    command = [*TRIMTAB, "keys", "list", "--home", str(tmp_path), *way]
    done = subprocess.run(command, stdout=write, stderr=subprocess.PIPE)
    os.close(write)
    assert (done.returncode, done.stderr) == (0, b"")


def test_code_of_the_project_that_ends_the_process_is_no_success(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def ends(**_: object) -> None:
        sys.exit(7)

    monkeypatch.setattr(app, "trimtab", SimpleNamespace(main=ends))
    with pytest.raises(SystemExit) as ended:
        app.main()
    assert ended.value.code == 7


def _heed_interruptions() -> None:
    """What a shell starts in the background ignores SIGINT, and hands that down."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
