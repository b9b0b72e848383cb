"""TPU: the run is one process of another interpreter, whose environment has torch_xla and the torch
that it is built for, with the code of this release, on the device that PJRT_DEVICE names.

XLA's own CPU device takes the same path, and the run says which of the two it was. This is the side
of whoever asks for the run. Imports no torch.
"""

import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import trimtab
from trimtab.child import Child
from trimtab.train.launchers.apart import done_apart
from trimtab.train.launchers.job import Desk, Job
from trimtab.train.launchers.xla_place import PLATFORM, interpreter, platform
from trimtab.train.online.rewards import Scorer
from trimtab.train.run import RunResult, StepProgress

# To compile a step, end it and save.
GRACE_S = 120.0


def launch(
    job: Job,
    run: Path,
    on_step: Callable[[StepProgress], None] | None,
    scorers: Sequence[Scorer] = (),
) -> RunResult:
    """Do a run in a process of the interpreter that has torch_xla: see `done_apart`. Told to end,
    it saves.
    """

    def begun(desk: Desk) -> Child:
        return Child(
            "xla",
            ["trimtab.train.launchers.xla", str(run)],
            environment={"PYTHONPATH": str(this_release(desk)), PLATFORM: platform()},
            python=interpreter() or sys.executable,
            # From its first word on: an environment that lacks something says so before any code
            # of ours is there.
            words=desk.log / "xla.log",
        )

    return done_apart(job, run, begun, GRACE_S, on_step, scorers, alone=True)


def this_release(desk: Desk) -> Path:
    """A folder with this package alone: beside it another torch may be installed."""
    folder = desk.path / "code"
    folder.mkdir()
    (folder / trimtab.__name__).symlink_to(Path(trimtab.__file__).parent, target_is_directory=True)
    return folder
