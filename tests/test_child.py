import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest

from tests.serving import eventually
from trimtab import child
from trimtab.child import Child, stop_together

SLEEPER = "tests.sleeper"


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def ignores(status: Path, number: int) -> bool:
    mask = next(line for line in status.read_text().splitlines() if line.startswith("SigIgn"))
    return bool(int(mask.split()[1], 16) >> (number - 1) & 1)


def test_a_child_that_died_is_started_again_after_a_growing_while(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(child, "BACKOFF_S", (0.1, 60.0))
    one = Child("sleeper", [SLEEPER])
    assert one.tend()
    assert not one.tend()
    for waits in (0.1, 60.0):
        assert one.process is not None
        one.process.kill()
        one.process.wait()
        assert not one.tend()
        assert one._not_before - time.monotonic() == pytest.approx(waits, abs=0.09)
        time.sleep(0.11)
        assert one.tend() is (waits < 1)
    one.stop(1.0)


def test_several_are_told_at_once_and_the_deaf_one_is_made_to_leave() -> None:
    deaf, polite = Child("deaf", [SLEEPER, "--deaf"]), Child("polite", [SLEEPER])
    for one in (deaf, polite):
        one.start()
    assert deaf.process is not None
    eventually(lambda: ignores(Path(f"/proc/{deaf.process.pid}/status"), signal.SIGTERM))
    ending = threading.Thread(target=stop_together, args=([deaf, polite], 1.5))
    ending.start()
    eventually(lambda: not polite.alive)
    assert deaf.alive
    ending.join()
    assert deaf.process.returncode == -signal.SIGKILL


def test_a_machine_that_gives_no_process_is_asked_again_and_nothing_leaks(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(*arguments: object, **options: object) -> None:
        raise BlockingIOError("Resource temporarily unavailable")

    monkeypatch.setattr(child, "BACKOFF_S", (0.0,))
    one = Child("sleeper", [SLEEPER])
    before = descriptors()
    with monkeypatch.context() as machine:
        machine.setattr(subprocess, "Popen", refuse)
        assert not one.tend()
        assert not one.tend()
        with pytest.raises(BlockingIOError):
            one.start()
    assert descriptors() == before
    assert one.tend()
    assert one.alive
    one.stop(5.0)
    assert descriptors() == before


def test_a_child_leaves_with_a_parent_that_is_killed(tmp_path: Path) -> None:
    parent = (
        "import time; from trimtab.child import Child\n"
        f"one = Child('sleeper', ['{SLEEPER}']); one.start()\n"
        "print(one.process.pid, flush=True); time.sleep(600)"
    )
    command = [sys.executable, "-c", parent]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        sleeper = psutil.Process(int(process.stdout.readline()))
        process.kill()
    eventually(lambda: not sleeper.is_running() or sleeper.status() == psutil.STATUS_ZOMBIE)


def test_a_child_that_does_not_hear_is_made_to_leave() -> None:
    one = Child("sleeper", [SLEEPER, "--deaf"])
    one.start()
    assert one.process is not None
    status = Path(f"/proc/{one.process.pid}/status")
    eventually(lambda: ignores(status, signal.SIGTERM))
    one.stop(0.2)
    assert one.process.returncode == -signal.SIGKILL
    assert not one.alive


FAMILY = "import subprocess, sys, time; subprocess.Popen(['sleep', '300']); time.sleep(300)"
KEEPER = """
import os, sys, time
from trimtab.child import Child, foreign
child = Child("family", foreign([sys.executable, "-c", sys.argv[1]]))
child.start()
print(child.process.pid, flush=True)
time.sleep(300)
"""


def gone(process: psutil.Process) -> bool:
    """A dead one may wait for its new parent to take note."""
    try:
        return process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def kept(pid: int) -> list[psutil.Process]:
    """The program that a keeper runs, and what that started; both are there before it returns."""
    eventually(lambda: len(psutil.Process(pid).children(recursive=True)) == 2)
    return psutil.Process(pid).children(recursive=True)


def test_a_foreign_program_and_what_it_started_do_not_outlive_the_parent() -> None:
    parent = subprocess.Popen(
        [sys.executable, "-c", KEEPER, FAMILY], stdout=subprocess.PIPE, text=True
    )
    assert parent.stdout is not None
    family = kept(int(parent.stdout.readline()))
    parent.kill()
    parent.wait()
    parent.stdout.close()
    eventually(lambda: all(map(gone, family)))


def test_a_foreign_program_is_stopped_in_order_and_its_end_is_told() -> None:
    one = Child("family", child.foreign([sys.executable, "-c", FAMILY]))
    one.start()
    assert one.process is not None
    family = kept(one.process.pid)
    # Less than the grace of a program that does not listen: the keeper ends with its own.
    one.stop(0.8 * child.GRACE_S)
    assert one.process.returncode != -signal.SIGKILL
    eventually(lambda: all(map(gone, family)))
    ended = Child("end", child.foreign([sys.executable, "-c", "raise SystemExit(7)"]))
    ended.start()
    assert ended.process is not None
    assert ended.process.wait(30) == 7
    ended.stop(1.0)


def test_a_child_has_the_environment_it_was_given(tmp_path: Path) -> None:
    told = tmp_path / "told"
    found = "os.environ['GIVEN'] + str('HOME' in os.environ)"
    say = f"import os; open({str(told)!r}, 'w').write({found})"
    one = Child(
        "environment",
        child.foreign([sys.executable, "-c", say]),
        environment={"GIVEN": "yes", "HOME": None},
    )
    one.start()
    assert one.process is not None
    assert one.process.wait(30) == 0
    one.stop(1.0)
    assert told.read_text() == "yesFalse"
