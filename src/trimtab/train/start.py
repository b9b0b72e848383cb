"""One run: preflight, train, probe, and a folder that says so.

Killed at any instant and started again with the same arguments, a run goes on from its last whole
checkpoint and ends in the same adapter bytes. Prints nothing; progress goes to `on_step`.
"""

import importlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import filelock

from trimtab.errors import InUse, ProjectError
from trimtab.text.chat import ChatFormat
from trimtab.train import checkpoint
from trimtab.train.attempt import attempted, opened, unfinished
from trimtab.train.context import context_of
from trimtab.train.ending import finish
from trimtab.train.launchers.job import Job
from trimtab.train.lesson import Lesson
from trimtab.train.objectives import objective_of
from trimtab.train.online.rewards import Reward, Scorer, over
from trimtab.train.pairing import check
from trimtab.train.preflight import preflight
from trimtab.train.prepare import Prepared, prepare
from trimtab.train.run import OnStep, Paused, RunFolder, RunResult
from trimtab.train.settings import TrainSettings, check_extra
from trimtab.train.watch.limits import Pause


def train(
    base: Path,
    chat: ChatFormat,
    lessons: Sequence[Lesson],
    settings: TrainSettings,
    folder: Path,
    *,
    on_step: OnStep | None = None,
    rewards: Sequence[Reward] = (),
) -> RunResult:
    """Train `base` on the lessons, by objective and method; a run that is done is returned as is.

    Raises ProjectError, DataError or BaseError before anything is written; UserError where the
    folder holds another run; RunFailed where the loss is not finite or runs away, or a step does
    not end; Preempted, InUse, or StorageFull with the last checkpoint standing, and RankLost where
    one of several processes ended; IdentityError if a weight of the base changed.
    """
    reached = train_until(base, chat, lessons, settings, folder, on_step=on_step, rewards=rewards)
    assert isinstance(reached, RunResult)
    return reached


def train_until(
    base: Path,
    chat: ChatFormat,
    lessons: Sequence[Lesson],
    settings: TrainSettings,
    folder: Path,
    *,
    pause: Pause | None = None,
    on_step: OnStep | None = None,
    rewards: Sequence[Reward] = (),
) -> RunResult | Paused:
    """`train`, with a pause on the way: the same call without it, or with a later one, goes on."""
    objective = objective_of(settings.objective)
    check_extra(objective, settings.extra)
    check(settings, rewards)
    context = context_of(base, settings)
    checked = preflight(
        chat, lessons, settings.max_length, objective, context, turns=settings.turns
    )
    if not settings.launch.alone:
        if pause is not None:
            raise ProjectError(
                f"train.launcher: {settings.launch}: a run of several ranks is not paused",
                hint="leave train.launcher out of a sweep",
            )
        scorers = [over(reward, lessons) for reward in rewards]
        return _launched(Job.of(base, settings, checked, scorers), folder, on_step, scorers)
    from trimtab.train.model import quiet

    with quiet():
        prepared = prepare(base, settings, checked, lessons, rewards)
        files = RunFolder(folder)
        with _alone_in(folder), checkpoint.room_needed(files.checkpoints):
            files.claim(prepared.identity, prepared.asked())
            return RunResult.load(folder) or _run(prepared, files, pause, on_step)


def _launched(
    job: Job, folder: Path, on_step: OnStep | None, scorers: Sequence[Scorer]
) -> RunResult:
    """The same, done by processes of its launcher."""
    launcher = importlib.import_module(f"trimtab.train.launchers.{job.settings.launch.kind}")
    with _alone_in(folder):
        done: RunResult = launcher.launch(job, folder, on_step, scorers)
        return done


def _run(
    prepared: Prepared, files: RunFolder, pause: Pause | None, on_step: OnStep | None
) -> RunResult | Paused:
    opened(prepared, files)
    attempt = attempted(prepared, files, pause, on_step)
    return unfinished(prepared, files, attempt) or finish(prepared, files, attempt)


@contextmanager
def _alone_in(folder: Path) -> Iterator[None]:
    folder.mkdir(parents=True, exist_ok=True)
    lock = filelock.FileLock(folder / ".lock", timeout=0)
    try:
        lock.acquire()
    except filelock.Timeout:
        raise InUse(
            f"{folder}: another process is training here", hint="wait for it, or stop it"
        ) from None
    try:
        yield
    finally:
        lock.release()
