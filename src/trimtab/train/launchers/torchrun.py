"""The side of whoever asks for a run of several ranks on this machine: starts them, tells how far
they are, and says why they stopped. Imports no torch.
"""

import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from trimtab.child import Child
from trimtab.train.launchers.job import Desk, Job
from trimtab.train.launchers.scores import Telling
from trimtab.train.rewards import Scorer
from trimtab.train.run import RunResult, StepProgress
from trimtab.train.signals import terminated

POLL_S = 0.05
# Longer than the agent gives its ranks to save and leave before it makes them.
GRACE_S = 70.0


def launch(
    job: Job,
    run: Path,
    on_step: Callable[[StepProgress], None] | None,
    scorers: Sequence[Scorer] = (),
) -> RunResult:
    """Do a run in ranks of this machine, and wait for it; `scorers` are the rewards of the job.

    Raises what a reward or the first rank to fail raised, RankLost where one ended without a word;
    then the others were stopped, and the last whole checkpoint stands. Told to end, the ranks save
    at once.
    """
    desk = Desk(run)
    shutil.rmtree(desk.path, ignore_errors=True)
    job.save(desk.job)
    telling = Telling(desk, scorers)
    agent = Child("ranks", ["trimtab.train.launchers.agent", str(run)])
    agent.start()
    assert agent.process is not None
    try:
        with terminated(agent.process.terminate):
            while agent.alive:
                time.sleep(POLL_S)
                desk.tell_on(on_step)
                telling.tell()
    finally:
        agent.stop(GRACE_S)
    desk.tell_on(on_step)
    done = RunResult.load(run)
    if agent.process.returncode or done is None:
        raise telling.failed or desk.cause(job.settings.launch.ranks)
    shutil.rmtree(desk.path)
    return done
