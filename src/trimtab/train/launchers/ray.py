"""Ray Train: the ranks are workers of a Ray cluster, and lost ones are replaced. Imports ray.

A worker that is lost ends its group; Ray starts another, which goes on from the newest whole
checkpoint, since that is where every rank begins. With more ranks asked for than there is room,
Ray starts as many as a batch can be shared out among. The run's folder and the base must be where
all machines of the cluster see them, and Trimtab be installed on each.
"""

import os
import platform
import shutil
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from trimtab.errors import Preempted, RankLost, UserError
from trimtab.train.checkpoint import newest
from trimtab.train.launchers.job import Desk, Job, first_line
from trimtab.train.launchers.scores import Telling
from trimtab.train.online.rewards import Scorer
from trimtab.train.run import RunFolder, RunResult, StepProgress
from trimtab.train.watch.signals import terminated

NAME = "trimtab"
# Ray Train shows every worker all GPUs of its machine's workers; not so where this says 0. It asks
# for it where its controller runs, which a cluster does not tell of this process's environment.
OWN_DEVICE = {"TRAIN_ENABLE_SHARE_CUDA_VISIBLE_DEVICES": "0"}
POLL_S = 0.2
# How often a group of workers is started anew before the run is given up.
REPLACED = 3
# How long workers that are told to end have to save, beside the time of two of their steps.
GRACE_S = 70.0


def launch(
    job: Job,
    run: Path,
    on_step: Callable[[StepProgress], None] | None,
    scorers: Sequence[Scorer] = (),
) -> RunResult:
    """Do a run in workers of the cluster that RAY_ADDRESS names, else of one of this machine;
    `scorers` are the rewards of the job.

    Raises what a reward or the first rank to fail raised; RankLost where workers were lost too
    often; UserError where RAY_ADDRESS names no cluster. Told to end, the workers save at once.
    Where a worker has said what would stop every other too, no further group is waited for.
    """
    desk = Desk(run.absolute())
    shutil.rmtree(desk.path, ignore_errors=True)
    job.save(desk.job)
    lost: list[BaseException] = []
    telling = Telling(desk, scorers)
    with _cluster(job) as fixed:
        most, batch = job.settings.launch.ranks, job.settings.groups
        least = most if fixed else fewest(most, batch)
        fitting = threading.Thread(target=_fit, args=(job, desk, least, lost), daemon=True)
        fitting.start()
        with terminated(desk.ask_to_end):
            while fitting.is_alive() and not desk.final and desk.asked_s < desk.patience(GRACE_S):
                fitting.join(POLL_S)
                desk.tell_on(on_step)
                telling.tell()
    desk.tell_on(on_step)
    done = RunResult.load(run)
    if done is None:
        raise telling.failed or _cause(desk, job.settings.launch.ranks, lost)
    shutil.rmtree(desk.path)
    return done


def _cause(desk: Desk, ranks: int, lost: list[BaseException]) -> Exception:
    """Why there is no result: what trimtab said of itself, else what became of the workers."""
    if desk.final:
        return desk.cause(ranks)
    if desk.asked_s:
        return _preempted(desk.run, ", and the workers did not answer")
    words = "; ".join(map(_words, lost)) or "nothing was said"
    return RankLost(
        f"the workers of Ray did not finish: {words}",
        hint="run again: the run goes on from its last checkpoint",
    )


def _preempted(run: Path, how: str) -> Preempted:
    """Told to end, where no worker could save; what stands."""
    last = newest(RunFolder(run).checkpoints)
    stands = f"step {last.step} is saved" if last else "nothing was saved yet"
    return Preempted(
        f"{run}: told to end{how}; {stands}", hint="run the same command again: it goes on"
    )


def _words(error: BaseException) -> str:
    """What Ray says, of each rank that failed in the last group."""
    failed: dict[int, BaseException] = getattr(error, "worker_failures", {})
    ranks = [f"rank {rank}: {first_line(each)}" for rank, each in failed.items()]
    return ", ".join(ranks) or first_line(error)


@contextmanager
def _cluster(job: Job) -> Iterator[bool]:
    """The cluster that RAY_ADDRESS names, else one of this machine for as long as the run lasts,
    with room for its ranks; whether that room is sure.
    """
    import ray

    if ray.is_initialized():
        yield False
        return
    address = os.environ.get("RAY_ADDRESS")
    variables = dict(OWN_DEVICE)
    here: dict[str, Any] = {}
    if address is None:
        # Nothing is sent to Ray's makers. Nor does Ray end workers where other processes fill the
        # machine's memory, for whether the run itself fits was planned; nor let every other process
        # of the machine go before them, which on a busy one leaves them nothing for minutes.
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        os.environ.setdefault("RAY_memory_monitor_refresh_ms", "0")
        os.environ.setdefault("RAY_worker_niceness", "0")
        threads = max(1, len(os.sched_getaffinity(0)) // job.settings.launch.ranks)
        variables["OMP_NUM_THREADS"] = os.environ.get("OMP_NUM_THREADS", str(threads))
        here = {"num_cpus": job.settings.launch.ranks, "include_dashboard": False}
    try:
        ray.init(
            address,
            runtime_env={"env_vars": variables},
            log_to_driver=False,
            logging_level="ERROR",
            **here,
        )
    # Ray raises several kinds: nobody answers, another release does, or it is no address at all.
    except (OSError, RuntimeError, ValueError) as error:
        if address is None:
            raise
        raise UserError(
            f"RAY_ADDRESS: no cluster can be used at {address!r}: {first_line(error)}",
            hint="name one that runs (ray start --head), or unset it for one of this machine",
        ) from error
    try:
        yield address is None
    finally:
        ray.shutdown()


def _fit(job: Job, desk: Desk, least: int, lost: list[BaseException]) -> None:
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer

    from trimtab.train.speed import device

    most = job.settings.launch.ranks
    trainer = TorchTrainer(
        work_in_ray,
        train_loop_config={"run": str(desk.run), "base": str(job.base.absolute())},
        scaling_config=ScalingConfig(
            num_workers=most if least == most else (least, most),
            use_gpu=device().name == "cuda",
        ),
        run_config=RunConfig(
            name=NAME,
            storage_path=str(desk.path / "ray"),
            failure_config=FailureConfig(max_failures=REPLACED),
        ),
    )
    try:
        trainer.fit()
    except Exception as error:
        lost.append(error)


def fewest(most: int, batch_size: int) -> int:
    """The fewest ranks such that they, and every number up to `most`, share a batch out evenly."""
    least = most
    while least > 1 and batch_size % (least - 1) == 0:
        least -= 1
    return least


def work_in_ray(config: dict[str, str]) -> None:
    """A worker's part. What trimtab itself refuses is final: the group that is started in the place
    of the one that said so does nothing.
    """
    from trimtab.train.launchers.crew import Crew
    from trimtab.train.launchers.rank import work

    desk, base = Desk(Path(config["run"])), Path(config["base"])
    if not desk.job.is_file():
        # Nobody would see what is written there.
        raise _unseen(desk.run)
    if desk.final:
        return
    rank = int(os.environ["RANK"])
    try:
        if not base.is_dir():
            raise _unseen(base)
        if desk.to_end:
            raise _preempted(desk.run, " before these workers began")
        work(desk.run, Crew.join())
    except Exception as error:
        desk.fail(rank, error)
        raise


def _unseen(folder: Path) -> UserError:
    return UserError(
        f"{folder}: not to be seen on {platform.node()}, where a worker of Ray runs",
        hint="let home and base lie on a file system that every worker has at the same path",
    )
