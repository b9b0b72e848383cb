"""Runs a loop in a forked process and kills it: at a boundary between steps, or inside one.

The heavy libraries are imported once, in the process that forks, so that a killed loop costs a
second and not ten. A kill inside a step comes from a timer whose signal keeps its default action:
the kernel ends the process between two instructions, as `kill -9` does.
"""

import importlib
import json
import os
import signal
import sys
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trimtab.flows.engines import engine_child
from trimtab.flows.sockets import engine_socket
from trimtab.registry.identity import base_hash
from trimtab.store.home import Home

HEAVY = ("torch", "transformers", "peft", "trl.trainer.sft_trainer", "datasets", "rensa")


def preload() -> None:
    """Import what a loop needs. Imports start no threads, so forking afterwards is safe."""
    for name in HEAVY:
        importlib.import_module(name)
    importlib.import_module("trimtab.flows.loop")


@dataclass(frozen=True)
class Kill:
    """Kills `after_s` after a step began, and at the latest when its result is committed.

    Without `after_s` the kill comes at that boundary.
    """

    step: str
    after_s: float | None = None


class Killer:
    """A watch that kills its process at the point it was given, and notes how long steps take."""

    def __init__(self, kill: Kill | None) -> None:
        self._kill = kill
        self.seconds: dict[str, float] = {}

    def started(self, step: str) -> None:
        if self._kill and self._kill.step == step and self._kill.after_s is not None:
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            signal.setitimer(signal.ITIMER_REAL, max(self._kill.after_s, 1e-6))

    def advanced(self, what: str, done: float, total: float | None, note: str = "") -> None:
        pass

    def finished(self, step: str, line: str, seconds: float) -> None:
        self.seconds[step] = seconds
        self._pass(step)

    def skipped(self, step: str, line: str) -> None:
        self._pass(step)

    def _pass(self, step: str) -> None:
        """A loop never gets beyond the step that it is to be killed at."""
        if self._kill and self._kill.step == step:
            os.kill(os.getpid(), signal.SIGKILL)


@dataclass(frozen=True)
class Attempt:
    """`killed` says whether the kill came; else the loop's outputs and the seconds of its steps."""

    killed: bool
    outputs: dict[str, Any]
    seconds: dict[str, float]


def attempt(project_file: Path, kill: Kill | None = None) -> Attempt:
    """Run the loop of a project in a forked process. Raises RuntimeError where it failed."""
    read_end, write_end = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(read_end)
        _run_and_report(project_file, kill, write_end)
    os.close(write_end)
    with os.fdopen(read_end) as pipe:
        said = pipe.read()
    status = os.waitpid(child, 0)[1]
    if os.WIFSIGNALED(status):
        return Attempt(True, {}, {})
    if os.waitstatus_to_exitcode(status):
        raise RuntimeError(f"the loop failed:\n{said}")
    return Attempt(False, **json.loads(said))


def _run_and_report(project_file: Path, kill: Kill | None, pipe: int) -> None:
    """The forked side; never returns."""
    from trimtab.flows.loop import run
    from trimtab.project import Project

    watch = Killer(kill)
    try:
        outcome = run(Project.load(project_file), watch=watch)
        said, code = json.dumps({"outputs": outcome.outputs, "seconds": watch.seconds}), 0
    except BaseException:
        said, code = traceback.format_exc(), 1
    with os.fdopen(pipe, "w") as out:
        out.write(said)
    sys.stdout.flush()
    os._exit(code)


class SharedEngine:
    """An engine that outlives the killed loops, as the one of `trimtab serve` would."""

    def __init__(self, project_folder: Path) -> None:
        base = project_folder / "base"
        content = base_hash(base)
        home = Home(project_folder / ".trimtab")
        self._child = engine_child(engine_socket(home, content), content, base)

    def __enter__(self) -> "SharedEngine":
        self._child.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._child.stop(10.0)
