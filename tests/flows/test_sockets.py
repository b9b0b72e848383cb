import fcntl
import os
import socket
from pathlib import Path
from typing import Any

import pytest

from trimtab.engine.process import claimed
from trimtab.errors import InUse
from trimtab.flows import sockets
from trimtab.flows.sockets import LONGEST, discard_dead, engine_socket, run_socket
from trimtab.store.home import Home

BASE = "a" * 64


def test_a_path_that_the_kernel_would_refuse_becomes_a_short_one(tmp_path: Path) -> None:
    deep = tmp_path / ("d" * 120)
    path = engine_socket(Home(deep), BASE)
    assert len(os.fsencode(path)) <= LONGEST
    assert path != engine_socket(Home(tmp_path / ("e" * 120)), BASE)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
    path.unlink()


def test_what_dead_runs_left_goes_and_what_lives_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # However long the folder's name is: no socket is opened, all lie in the home.
    monkeypatch.setattr(sockets, "LONGEST", 4096)
    home = Home(tmp_path)
    alive, dead = run_socket(home, BASE, "1111"), run_socket(home, BASE, "2222")
    served = engine_socket(home, BASE)
    for path in (dead, served):
        path.touch()
        path.with_name(f"{path.name}.lock").touch()
    with claimed(alive):
        alive.touch()
        discard_dead(alive.parent)
        left = {path.name for path in alive.parent.iterdir()}
    assert left == {name for path in (alive, served) for name in (path.name, f"{path.name}.lock")}


def test_a_lock_that_is_removed_while_it_is_taken_is_taken_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`discard_dead` holds the lock at the first try, and has removed its file by the second."""
    path = tmp_path / "engine.sock"
    lock, real, calls = path.with_name("engine.sock.lock"), fcntl.flock, iter(range(9))

    def flock(file: Any, operation: int) -> None:
        call = next(calls, 9)
        if call == 0:
            raise BlockingIOError
        if call == 1:
            lock.unlink()
        real(file, operation)

    monkeypatch.setattr(fcntl, "flock", flock)
    with claimed(path):
        assert lock.exists()
        with pytest.raises(InUse), claimed(path):
            pass


def test_a_lock_that_an_engine_made_anew_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = Home(tmp_path)
    path = run_socket(home, BASE, "3333")
    lock, real = path.with_name(f"{path.name}.lock"), fcntl.flock
    for each in (path, lock):
        each.touch()

    def flock(file: Any, operation: int) -> None:
        lock.rename(tmp_path / "removed by another")
        lock.touch()
        real(file, operation)

    monkeypatch.setattr(fcntl, "flock", flock)
    discard_dead(home.sockets)
    assert path.exists()
    assert lock.exists()
