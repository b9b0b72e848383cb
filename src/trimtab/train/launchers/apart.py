"""A run in another process, for whoever asks for it: tells how far it is, answers what its rewards
ask, and says why it stopped. Imports no torch.
"""

import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from trimtab.child import Child
from trimtab.train.launchers.job import Desk, Job
from trimtab.train.launchers.scores import Telling
from trimtab.train.online.rewards import Scorer
from trimtab.train.run import RunResult, StepProgress
from trimtab.train.watch.signals import terminated

POLL_S = 0.05


def done_apart(
    job: Job,
    run: Path,
    begun: Callable[[Desk], Child],
    grace_s: float,
    on_step: Callable[[StepProgress], None] | None,
    scorers: Sequence[Scorer],
    *,
    alone: bool = False,
) -> RunResult:
    """Do a run in the process that `begun` makes for its desk, and wait for it; `scorers` are the
    rewards of the job. `alone`: the process is the only rank, and starts none.

    Raises what a reward or the first rank to fail raised, RankLost where one ended without a word;
    the last whole checkpoint stands. Told to end, it has `grace_s` seconds to save.
    """
    desk = Desk(run)
    shutil.rmtree(desk.path, ignore_errors=True)
    job.save(desk.job)
    desk.log.mkdir(exist_ok=True)
    telling = Telling(desk, scorers)
    child = begun(desk)
    child.start()
    assert child.process is not None
    try:
        with terminated(child.process.terminate):
            while child.alive:
                time.sleep(POLL_S)
                desk.tell_on(on_step)
                telling.tell()
    finally:
        child.stop(grace_s)
    desk.tell_on(on_step)
    done = RunResult.load(run)
    if child.process.returncode or done is None:
        if alone:
            desk.lose({0: child.process.returncode})
        raise telling.failed or desk.cause(job.settings.launch.ranks)
    shutil.rmtree(desk.path)
    return done
