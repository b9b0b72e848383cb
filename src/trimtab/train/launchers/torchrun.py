"""The side of whoever asks for a run of several ranks on this machine: starts them, tells how far
they are, and says why they stopped. Imports no torch.
"""

import shutil
import time
from collections.abc import Callable
from pathlib import Path

from trimtab.child import Child
from trimtab.train.launchers.job import Desk, Job
from trimtab.train.run import RunResult, StepProgress

POLL_S = 0.05
# The agent gives its ranks ten seconds to leave before it makes them.
GRACE_S = 15.0


def launch(job: Job, run: Path, on_step: Callable[[StepProgress], None] | None) -> RunResult:
    """Do a run in ranks of this machine, and wait for it.

    Raises what the first rank to fail raised, RankLost where one ended without a word; then the
    others were stopped, and the last whole checkpoint stands.
    """
    desk = Desk(run)
    shutil.rmtree(desk.path, ignore_errors=True)
    job.save(desk.job)
    agent = Child("ranks", ["trimtab.train.launchers.agent", str(run)])
    agent.start()
    try:
        while agent.alive:
            time.sleep(POLL_S)
            _tell(desk, on_step)
    finally:
        agent.stop(GRACE_S)
    _tell(desk, on_step)
    assert agent.process is not None
    done = RunResult.load(run)
    if agent.process.returncode or done is None:
        raise desk.cause(job.settings.launch.ranks)
    shutil.rmtree(desk.path)
    return done


def _tell(desk: Desk, on_step: Callable[[StepProgress], None] | None) -> None:
    for step in desk.told():
        if on_step is not None:
            on_step(step)
