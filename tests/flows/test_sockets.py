import os
import socket
from pathlib import Path

from trimtab.engine.process import claimed
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


def test_what_dead_runs_left_goes_and_what_lives_stays(tmp_path: Path) -> None:
    home = Home(tmp_path)
    alive, dead = run_socket(home, BASE, "1111"), run_socket(home, BASE, "2222")
    served = engine_socket(home, BASE)
    for path in (dead, served):
        path.touch()
        path.with_name(f"{path.name}.lock").touch()
    with claimed(alive):
        alive.touch()
        discard_dead(home.sockets)
        left = {path.name for path in home.sockets.iterdir()}
    assert left == {name for path in (alive, served) for name in (path.name, f"{path.name}.lock")}
