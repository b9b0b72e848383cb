"""Ranks of this machine, a process for each device, under an agent that stops them all when one
ends badly. Imports no torch.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

from trimtab.child import Child
from trimtab.train.launchers.apart import done_apart
from trimtab.train.launchers.job import Desk, Job
from trimtab.train.online.rewards import Scorer
from trimtab.train.run import RunResult, StepProgress

# Longer than the agent gives its ranks to save and leave before it makes them.
GRACE_S = 70.0


def launch(
    job: Job,
    run: Path,
    on_step: Callable[[StepProgress], None] | None,
    scorers: Sequence[Scorer] = (),
) -> RunResult:
    """Do a run in ranks of this machine: see `done_apart`. Where one fails the others are stopped;
    told to end, they save at once.
    """

    def begun(desk: Desk) -> Child:
        agent = ["trimtab.train.launchers.agent", str(run)]
        return Child("ranks", agent, words=desk.log / "agent.log")

    return done_apart(job, run, begun, GRACE_S, on_step, scorers)
