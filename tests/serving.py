"""`trimtab serve` as a user starts it, for tests: a real process, real HTTP."""

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx
import psutil

from trimtab.gateway import keys
from trimtab.store.home import Home

READY_S = 180


class Server:
    """A running `trimtab serve`, with a key for it."""

    def __init__(self, process: subprocess.Popen[str], home: Path, address: str, key: str) -> None:
        self.process = process
        self.database = home / "trimtab.db"
        self.address = address
        self.client = httpx.Client(
            base_url=address,
            timeout=120,
            trust_env=False,
            headers={"Authorization": f"Bearer {key}"},
        )

    def children(self) -> dict[str, psutil.Process]:
        """The children by the module they run: engine.process, gateway, controller."""
        found = {}
        for child in psutil.Process(self.process.pid).children(recursive=True):
            # One that died has an empty command line until it was waited for, then none.
            with suppress(psutil.NoSuchProcess):
                if command := child.cmdline():
                    found[command[2].removeprefix("trimtab.")] = child
        return found


@contextmanager
def serving(home: Path) -> Iterator[Server]:
    """Serve a home on a free port for as long as the block runs, then stop it as Ctrl-C would."""
    database = Home(home).database()
    with database.transaction() as connection:
        key = keys.create(connection, "test", "test").key
    database.close()
    command = [sys.executable, "-m", "trimtab", "serve", "--home", str(home), "--port", "0"]
    process = subprocess.Popen([*command, "--json"], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        server = Server(process, home, json.loads(process.stdout.readline())["address"], key)
        yield server
        server.client.close()
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(30)
        process.stdout.close()  # type: ignore[union-attr]


def eventually(condition: Callable[[], bool], seconds: float = READY_S) -> None:
    """Wait until a condition holds; fails the test where it never does."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it never happened"
        time.sleep(0.1)
