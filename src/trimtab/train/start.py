"""One run: preflight, train, probe, and a folder that says so.

Killed at any instant and started again with the same arguments, a run goes on from its last whole
checkpoint and ends in the same adapter bytes. Prints nothing; progress goes to `on_step`.
"""

import importlib
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import filelock

from trimtab.errors import InUse, Preempted, ProjectError
from trimtab.text.chat import ChatFormat
from trimtab.train import checkpoint, curve, probes
from trimtab.train.launchers.job import Job
from trimtab.train.lesson import Lesson
from trimtab.train.limits import Pause
from trimtab.train.objectives import objective_of
from trimtab.train.pairing import check
from trimtab.train.preflight import preflight
from trimtab.train.prepare import Prepared, prepare
from trimtab.train.rewards import Reward, Scorer, over
from trimtab.train.run import (
    Paused,
    RunFolder,
    RunResult,
    StepProgress,
    write_bytes,
    write_json,
)
from trimtab.train.saving import save_result
from trimtab.train.settings import TrainSettings, check_extra
from trimtab.train.speed import kept_memory

if TYPE_CHECKING:
    from trimtab.train.trainer import SealedTrainer
    from trimtab.train.watch import Watch

OnStep = Callable[[StepProgress], None]
Seated = Callable[["SealedTrainer"], object]


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
    checked = preflight(chat, lessons, settings.max_length, objective)
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


@dataclass(frozen=True, slots=True)
class Attempt:
    """How far a run has come; `seconds` of training lie behind it, over all attempts."""

    trainer: "SealedTrainer"
    watch: "Watch"
    seconds: float

    @property
    def step(self) -> int:
        return self.trainer.state.global_step


def opened(prepared: Prepared, files: RunFolder) -> None:
    """Say what will be trained on, and clear away what a killed run left half-written."""
    write_json(files.preflight, prepared.checked.to_json())
    checkpoint.clear_unsealed(files.checkpoints)


def attempted(
    prepared: Prepared,
    files: RunFolder,
    pause: Pause | None,
    on_step: OnStep | None,
    seated: Seated | None = None,
) -> Attempt:
    """Train from the last whole checkpoint on, as far as the run's limits and `pause` let it.

    `seated` is done to the trainer before its first step: it may be one rank of several.
    """
    from trimtab.train.display import Display
    from trimtab.train.flops import Utilisation
    from trimtab.train.trainer import build
    from trimtab.train.watch import Watch

    last = checkpoint.newest_of(files.checkpoints, prepared.identity)
    limits = replace(prepared.settings.limits, pause=pause)
    # What came behind the last checkpoint is done again, and was paid for all the same.
    used = max(files.used_s, last.seconds if last else 0.0)
    watch = Watch(
        prepared.step_examples,
        files.path,
        limits=limits,
        spent=used,
        done=last.step if last else 0,
        utilisation=Utilisation(prepared).of,
        watched=prepared.objective.watched,
        # What rollouts are learnt from changes at every step, and their loss with it.
        falls=not prepared.objective.rollouts,
        # Each is only computed forwards, so that is the most that a look at them takes.
        closing=len(prepared.validation.layout) / prepared.settings.accumulation,
    )
    trainer = build(prepared, files.checkpoints, watch)
    if seated is not None:
        seated(trainer)
    if not prepared.share.rank:
        watch.listeners.append(lambda step: files.use(step.seconds))
    if on_step is not None:
        watch.listeners.append(on_step)
    if prepared.share.rank:
        return _attempt(trainer, watch, last, used)
    with Display(prepared, files, trainer, watch, last):
        try:
            attempt = _attempt(trainer, watch, last, used)
        except BaseException:
            files.use(watch.seconds)
            raise
        files.use(attempt.seconds)
        return attempt


def _attempt(
    trainer: "SealedTrainer", watch: "Watch", last: checkpoint.Checkpoint | None, used: float
) -> Attempt:
    """From the last checkpoint on, where its run has not ended there; `used` seconds lie behind."""
    limits = watch.limits
    if last is not None:
        ended = last.ended or limits.ended(used, 0.0)
        if ended or limits.paused(last.step, used, 0.0):
            trainer.stand_at(last.step)
            watch.ended, watch.paused = ended, not ended
            return Attempt(trainer, watch, used)
    with watch.on_guard(), kept_memory():
        trainer.train(resume_from_checkpoint=str(last.path) if last else None)
    return Attempt(trainer, watch, watch.seconds)


def unfinished(prepared: Prepared, files: RunFolder, attempt: Attempt) -> Paused | None:
    """Where the run is to go on another time; None where it is at its end.

    Raises Preempted where the process was told to end.
    """
    trainer, watch = attempt.trainer, attempt.watch
    if attempt.step >= prepared.steps or watch.ended:
        return None
    if watch.preempted:
        raise Preempted(
            f"{files.path}: told to end; step {attempt.step} of {prepared.steps} is saved",
            hint="run the same command again: it goes on from there",
        )
    held_out = trainer.held_out[-1][1] if trainer.held_out else None
    return Paused(attempt.step, attempt.seconds, held_out)


def finish(prepared: Prepared, files: RunFolder, attempt: Attempt) -> RunResult:
    """Keep what was learnt, and say so."""
    trainer, done, seconds = attempt.trainer, attempt.step, attempt.seconds
    best = trainer.best_step or done
    if best != done:
        trainer.go_back_to(best)
    trainer.finish()
    prepared.attached.must_still_be(prepared.base_fingerprint)
    points = _keep(prepared, files, trainer)
    tokens = sum(e.size for step in prepared.step_examples[:done] for e in step)
    result = RunResult(
        identity=prepared.identity,
        folder=files.path,
        steps=done,
        planned_steps=prepared.steps,
        loss=curve.smoothed([point.loss for point in points])[-1],
        trainable=prepared.attached.trainable,
        total=prepared.attached.total,
        modules=prepared.attached.modules,
        base_fingerprint=prepared.base_fingerprint,
        seconds=round(seconds, 3),
        tokens=tokens,
        dtype=prepared.machine.dtype,
        device=prepared.machine.label,
        stopped=attempt.watch.ended,
        best_step=best,
        held_out=dict(trainer.held_out).get(best),
        usd=prepared.settings.limits.usd(seconds),
    )
    result.save()
    shutil.rmtree(files.checkpoints)
    return result


def _keep(prepared: Prepared, files: RunFolder, trainer: "SealedTrainer") -> list[curve.Point]:
    """Write the result, the probes, and the curve, which comes back."""
    save_result(prepared.attached, prepared.base, files)
    if prepared.objective.answers:
        _probe(prepared, files).save(files.probes)
    held_out = dict(trainer.held_out)
    points = [
        curve.Point(
            step=int(entry["step"]),
            loss=entry["loss"],
            learning_rate=entry["learning_rate"],
            gradient_norm=entry["grad_norm"],
            held_out=held_out.get(int(entry["step"])),
            metrics={name: entry[name] for name in prepared.objective.watched if name in entry},
        )
        for entry in trainer.state.log_history
        if "loss" in entry
    ]
    write_json(files.curve, curve.to_json(points))
    write_bytes(files.picture, curve.to_svg(points, prepared.title).encode())
    return points


def _probe(prepared: Prepared, files: RunFolder) -> probes.Probes:
    """What the adapter says as it will be served, and how far that is from what was trained."""
    from trimtab.train.model import as_served

    attached, examples = prepared.attached, prepared.checked.examples
    served = as_served(attached, prepared.base, files.adapter, prepared.machine)
    measured = probes.measure(served, examples, prepared.machine.dtype)
    if served is attached.model:
        return measured
    return probes.narrowed(measured, attached.model, examples)


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
