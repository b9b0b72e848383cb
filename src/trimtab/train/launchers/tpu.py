"""TPU: the run is one process of another interpreter, whose environment has torch_xla and the torch
that it is built for, with the code of this release, on the device that PJRT_DEVICE names.

XLA's own CPU device takes the same path, and the run says which of the two it was. This is the side
of whoever asks for the run. Imports no torch.
"""

import shutil
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import trimtab
from trimtab.child import Child
from trimtab.train.launchers.job import Desk, Job
from trimtab.train.launchers.scores import Telling
from trimtab.train.launchers.xla_place import PLATFORM, interpreter, platform
from trimtab.train.rewards import Scorer
from trimtab.train.run import RunResult, StepProgress
from trimtab.train.signals import terminated

POLL_S = 0.05
# To compile a step, end it and save.
GRACE_S = 120.0


def launch(
    job: Job,
    run: Path,
    on_step: Callable[[StepProgress], None] | None,
    scorers: Sequence[Scorer] = (),
) -> RunResult:
    """Do a run in a process of the interpreter that has torch_xla, and wait for it.

    Raises what the process raised, RankLost where it ended without a word. Told to end, it saves.
    """
    desk = Desk(run)
    shutil.rmtree(desk.path, ignore_errors=True)
    job.save(desk.job)
    telling = Telling(desk, scorers)
    child = Child(
        "xla",
        ["trimtab.train.launchers.xla", str(run)],
        environment={"PYTHONPATH": str(this_release(desk)), PLATFORM: platform()},
        python=interpreter() or sys.executable,
    )
    child.start()
    assert child.process is not None
    try:
        with terminated(child.process.terminate):
            while child.alive:
                time.sleep(POLL_S)
                desk.tell_on(on_step)
                telling.tell()
    finally:
        child.stop(GRACE_S)
    desk.tell_on(on_step)
    done = RunResult.load(run)
    if child.process.returncode or done is None:
        desk.lose({0: child.process.returncode})
        raise telling.failed or desk.cause(1)
    shutil.rmtree(desk.path)
    return done


def this_release(desk: Desk) -> Path:
    """A folder with this package alone: beside it another torch may be installed."""
    folder = desk.path / "code"
    folder.mkdir()
    (folder / trimtab.__name__).symlink_to(Path(trimtab.__file__).parent, target_is_directory=True)
    return folder
