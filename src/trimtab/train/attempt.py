"""One attempt at a run: from its last whole checkpoint on, as far as its limits let it."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from trimtab.errors import Preempted
from trimtab.train import checkpoint
from trimtab.train.prepare import Prepared
from trimtab.train.run import OnStep, Paused, RunFolder, write_json
from trimtab.train.speed import kept_memory
from trimtab.train.watch.limits import Pause

if TYPE_CHECKING:
    from trimtab.train.trainer import SealedTrainer
    from trimtab.train.watch.watch import Watch

Seated = Callable[["SealedTrainer"], object]


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
    from trimtab.train.display.display import Display
    from trimtab.train.flops import Utilisation
    from trimtab.train.trainer import build
    from trimtab.train.watch.watch import Watch

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
