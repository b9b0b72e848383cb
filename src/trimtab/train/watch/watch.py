"""The watch over a run: progress, its limits, and a stop at once where the loss cannot be trusted.

A callback of transformers' Trainer. Imports transformers; import it only where a run starts.
"""

import math
import resource
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from trimtab.errors import RunFailed
from trimtab.train.rows import Row
from trimtab.train.run import StepProgress
from trimtab.train.watch import divergence
from trimtab.train.watch.limits import Ended, Limits
from trimtab.train.watch.signals import terminated
from trimtab.train.watch.stall import Stalled, StallGuard, hint

STACKS = "stalled.txt"
# What of the log has a field of its own, or says nothing.
OURS = ("step", "epoch", "loss", "grad_norm", "tokens_s", "seconds", "memory", "mfu")


class Watch(TrainerCallback):
    """Reports each step, ends the run at its limits, and stops it where it has gone wrong.

    `steps` holds the rows of each step; `spent` seconds and `done` steps lie behind a run that goes
    on; `watched` names the metrics that must be finite beside the loss, for some objectives report
    no loss at all where their rewards are no numbers. `falls` says whether the loss can tell a
    divergence, `utilisation` what a step of so many seconds reached. `closing` is forecast to take
    that many steps, until a checkpoint has been made. Each of the `listeners` hears of every step.
    `ended` says why the run ends before its last step, `paused` and `preempted`
    whether it is to go on another time.
    """

    def __init__(
        self,
        steps: Sequence[Sequence[Row]],
        folder: Path,
        *,
        limits: Limits = Limits(),  # noqa: B008 - frozen
        spent: float = 0.0,
        done: int = 0,
        utilisation: Callable[[int, float], float | None] = lambda step, seconds: None,
        watched: Sequence[str] = (),
        falls: bool = True,
        closing: float = 0.0,
    ) -> None:
        self._steps = steps
        self.limits = limits
        self._spent = spent
        self._utilisation = utilisation
        self.listeners: list[Callable[[StepProgress], None]] = []
        self._watched = ("loss", "grad_norm", *watched)
        self._falls = falls
        self._step = done
        # The longest step so far, or what one took on average before this attempt.
        self._longest = spent / done if done else 0.0
        # The longest work between two steps, and how much of it lies behind the last step.
        self._closing = limits.pause.closing_s if limits.pause else 0.0
        self._closing_steps = closing
        self._between = 0.0
        self._started = self._step_started = self._step_ended = time.monotonic()
        self._file = folder / STACKS
        self._guard = StallGuard(self._under_way, self._file)
        self.ended: Ended = ""
        self.paused = False
        self.preempted = False

    @property
    def seconds(self) -> float:
        """Seconds of training over all attempts."""
        return self._spent + time.monotonic() - self._started

    @contextmanager
    def on_guard(self) -> Iterator[None]:
        """Guard against stalls, and take SIGTERM as the order to save and end.

        Raises RunFailed where a step does not end.
        """
        with terminated(self._be_preempted):
            try:
                with self._guard.watching():
                    yield
            except Stalled:
                raise RunFailed(self._guard.message, hint=hint(self._file)) from None

    @contextmanager
    def between_steps(self) -> Iterator[None]:
        """Frames work between two steps, such as saving: a stop takes as much behind its step."""
        began = time.monotonic()
        with self._guard.held():
            yield
        self._between = time.monotonic() - began
        self._closing = max(self._closing, self._between)

    @property
    def _to_the_next_stop(self) -> float:
        """Seconds of one more step with what closes a run behind it, by the longest so far."""
        return self._longest + (self._closing or self._closing_steps * self._longest)

    def _be_preempted(self) -> None:
        self.preempted = True

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        self._started = self._step_ended = time.monotonic()
        forget_peak()

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        self._step_started = time.monotonic()

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        self._guard.stepped()
        now = time.monotonic()
        self._longest = max(self._longest, now - self._step_ended - self._between)
        self._step_ended, self._between = now, 0.0
        self._step = state.global_step
        if state.global_step >= state.max_steps:
            return
        ahead = self._to_the_next_stop
        self.ended = self.limits.ended(self.seconds, ahead)
        self.paused = self.limits.paused(state.global_step, self.seconds, ahead)
        if self.ended or self.paused or self.preempted:
            self._stop(control)

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        *,
        logs: dict[str, float] | None = None,
        **_: Any,
    ) -> None:
        if logs is None or "loss" not in logs:
            return
        step = state.global_step
        for name in self._watched:
            if not math.isfinite(logs.get(name, 0.0)):
                raise _not_finite(step, name, logs[name], self._steps[step - 1])
        if self._falls:
            self._must_not_run_away(state, control)
        self._measure(state)
        progress = progress_of(state.log_history[-1], state.max_steps, self.limits)
        for listener in self.listeners:
            listener(progress)
        # Nothing is as soon after an order as the end of this step.
        if self.preempted:
            self._stop(control)

    def _stop(self, control: TrainerControl) -> None:
        control.should_save = True
        control.should_training_stop = True

    def _must_not_run_away(self, state: TrainerState, control: TrainerControl) -> None:
        losses = [entry["loss"] for entry in state.log_history if "loss" in entry]
        above = divergence.far_above(losses)
        if above:
            # What may have gone wrong does not take the place of a good checkpoint.
            control.should_save = False
        if above == divergence.STEPS:
            first = state.global_step - above + 1
            raise _ran_away(first, losses, self._steps[first - 1])

    def _measure(self, state: TrainerState) -> None:
        """Into the log, which goes with the checkpoints."""
        step = state.global_step
        took = time.monotonic() - self._step_started
        entry = state.log_history[-1]
        entry["tokens_s"] = sum(example.size for example in self._steps[step - 1]) / took
        entry["seconds"] = self.seconds
        entry["memory"] = peak_memory()
        if (reached := self._utilisation(step, took)) is not None:
            entry["mfu"] = reached

    def _under_way(self) -> str:
        rows = self._steps[min(self._step, len(self._steps) - 1)]
        return f"step {self._step + 1} on training records {_records(rows)}"


def progress_of(entry: Mapping[str, Any], steps: int, limits: Limits) -> StepProgress:
    """A step as the log keeps it."""
    return StepProgress(
        step=int(entry["step"]),
        steps=steps,
        loss=entry["loss"],
        tokens_s=entry["tokens_s"],
        seconds=entry["seconds"],
        gradient_norm=entry.get("grad_norm", 0.0),
        memory=entry["memory"],
        usd=limits.usd(entry["seconds"]),
        left_usd=limits.left_usd(entry["seconds"]),
        mfu=entry.get("mfu"),
        metrics={
            name: float(value)
            for name, value in entry.items()
            if name not in OURS and isinstance(value, int | float)
        },
    )


def forget_peak() -> None:
    """From now on an accelerator's most is that of this run, and not of one before it."""
    import torch

    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()


def peak_memory() -> int:
    """The most memory that this process has held, in bytes: the accelerator's where it has one."""
    import torch

    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _records(rows: Sequence[Row]) -> list[int]:
    return [row.record for row in rows]


def _not_finite(step: int, name: str, value: float, rows: Sequence[Row]) -> RunFailed:
    return RunFailed(
        f"step {step}: {name.replace('_', ' ')} is {value} on training records {_records(rows)}",
        hint="lower train.learning_rate, or look at these records",
    )


def _ran_away(first: int, losses: Sequence[float], rows: Sequence[Row]) -> RunFailed:
    return RunFailed(
        f"step {first}: the loss runs away from here: {losses[first - 1]:.3g} to {losses[-1]:.3g}, "
        f"where {divergence.typical(losses):.3g} was usual; on training records {_records(rows)}",
        hint="lower train.learning_rate, or look at these records",
    )
