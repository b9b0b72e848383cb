"""One rank of a run: `python -m trimtab.train.launchers.rank RUN`, as a launcher starts it.

The first rank writes the run's folder; the others read the newest checkpoint from it and write
nothing but why they stopped. Imports torch.
"""

import ctypes
import os
import signal
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from trimtab.child import PR_SET_PDEATHSIG
from trimtab.train import checkpoint
from trimtab.train.launchers import Launch
from trimtab.train.launchers.crew import Crew
from trimtab.train.launchers.ddp import Replicas
from trimtab.train.launchers.job import Desk, Job
from trimtab.train.launchers.scores import asking
from trimtab.train.prepare import Prepared, prepare
from trimtab.train.run import RunFolder, RunResult, write_json
from trimtab.train.speed import Device

if TYPE_CHECKING:
    from torch import Tensor


def work(run: Path, crew: Crew) -> None:
    """Do a rank's part of the run in a folder. Raises what training in one process raises."""
    from trimtab.train.attempt import attempted, opened, unfinished
    from trimtab.train.ending import finish
    from trimtab.train.launchers.ranked import RankedTrainer, join
    from trimtab.train.model import quiet

    desk = Desk(run)
    job, files = Job.load(desk.job), RunFolder(run)
    with quiet(), checkpoint.room_needed(files.checkpoints):
        prepared = prepare(job.base, job.settings, job.checked, share=crew.share)
        prepared = replace(prepared, scorers=asking(job, desk))
        if crew.first:
            files.claim(prepared.identity, prepared.asked())
        if crew.told(RunResult.load(run) is not None):
            return
        if crew.first:
            opened(prepared, files)
        crew.wait()
        sharding = sharding_of(job.settings.launch)
        attempt = attempted(
            prepared,
            files,
            None,
            desk.tell if crew.first else None,
            lambda built: join(built, crew, sharding, lambda: desk.to_end),
        )
        trainer = attempt.trainer
        assert isinstance(trainer, RankedTrainer)
        unfinished(prepared, files, attempt)
        proof, weights = trainer.proof(), trainer.gathered()
        if crew.first:
            launched = {**job.settings.launch.to_json(), "ranks": crew.ranks, "proof": proof}
            write_json(files.launch, launched)
            finish(whole(prepared, weights, prepared.machine), files, attempt)
        crew.wait()


def sharding_of(launch: Launch) -> Replicas:
    """What lays the model over the ranks."""
    if launch.sharding == "fsdp":
        from trimtab.train.launchers.fsdp import Shards

        return Shards()
    if launch.sharding in ("zero2", "zero3"):
        from trimtab.train.launchers.zero import Zero

        return Zero(launch)
    return Replicas()


def whole(prepared: Prepared, weights: "dict[str, Tensor] | None", place: Device) -> Prepared:
    """The run with its model whole in this process: a new one in a place, where there are weights
    for it, since the trained one lies in shards or elsewhere.

    It is loaded as the base was, so that what is then proved of it is proved of every weight.
    """
    if weights is None:
        return prepared
    from trimtab.train.model import attach

    fresh = attach(prepared.base, prepared.settings, place)
    fresh.model.load_state_dict(weights)
    return replace(prepared, attached=fresh)


def main(run: Path) -> int:
    rank, agent = int(os.environ["RANK"]), os.getppid()
    # However the agent dies, the kernel tells its ranks.
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != agent:
        return 1
    try:
        crew = Crew.join()
        work(run, crew)
        crew.leave()
    except Exception as error:
        Desk(run).fail(rank, error)
        # Nothing is waited for: the other ranks may wait for this one.
        sys.stderr.flush()
        os._exit(1)
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
