"""The watch over a run: progress, the deadline, and a stop at the first loss that is not finite.

A callback of transformers' Trainer. Imports transformers; import it only where a run starts.
"""

import math
import time
from collections.abc import Callable, Sequence
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from trimtab.errors import UserError
from trimtab.train.rows import Row
from trimtab.train.run import StepProgress


class Watch(TrainerCallback):
    """Reports each step, stops at the deadline, and stops at once where the loss is not finite.

    `steps` holds the rows of each step; `spent` seconds lie behind a run that goes on; `watched`
    names the metrics that must be finite beside the loss, for some objectives report no loss at all
    where their rewards are no numbers.
    """

    def __init__(
        self,
        steps: Sequence[Sequence[Row]],
        *,
        spent: float,
        deadline_s: float | None,
        on_step: Callable[[StepProgress], None] | None,
        watched: Sequence[str] = (),
    ) -> None:
        self._steps = steps
        self._spent = spent
        self._deadline_s = deadline_s
        self._on_step = on_step
        self._watched = ("loss", "grad_norm", *watched)
        self._started = self._step_started = time.monotonic()

    @property
    def seconds(self) -> float:
        """Seconds of training over all attempts."""
        return self._spent + time.monotonic() - self._started

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        self._started = time.monotonic()

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        self._step_started = time.monotonic()

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        if self._deadline_s is not None and self.seconds >= self._deadline_s:
            control.should_save = True
            control.should_training_stop = True

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
                raise _diverged(step, name, logs[name], self._steps[step - 1])
        if self._on_step is not None:
            took = time.monotonic() - self._step_started
            rate = sum(example.size for example in self._steps[step - 1]) / took
            self._on_step(StepProgress(step, state.max_steps, logs["loss"], rate, self.seconds))


def _diverged(step: int, name: str, value: float, examples: Sequence[Row]) -> UserError:
    records = [example.record for example in examples]
    return UserError(
        f"step {step}: {name.replace('_', ' ')} is {value} on training records {records}",
        hint="lower train.learning_rate, or look at these records",
    )
