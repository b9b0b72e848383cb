"""A sweep: settings tried side by side, the worse ones left early, under one budget.

Successive halving (Jamieson and Talwalkar 2016): all trials take a small share of their steps, the
best third goes on to three times as many, and so on until one is whole. A trial pauses at a
checkpoint and goes on from it, on the schedule of its whole run, so nothing is trained twice. Each
pause is a step of the journal: a sweep that was killed goes on with the trial that was under way.
They are judged by the loss on the same records held out of training, never by the evaluation's.

What is left of the budget is each trial's own: no step begins that would not end, with its look and
its checkpoint, within it, by the longest of both so far. So a budget is passed by no more than one
step costs with the checkpoint behind it, and only by steps that cost more than all before.
"""

import itertools
import math
import random
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

from trimtab import __version__
from trimtab.canonical import content_hash
from trimtab.errors import ProjectError, RunFailed
from trimtab.flows.backends import check_method
from trimtab.flows.bills import bill_training
from trimtab.flows.journal import StepJournal
from trimtab.flows.lessons import lessons_of
from trimtab.flows.loop import run
from trimtab.flows.settings import HELD_OUT, settings_of
from trimtab.flows.spending import billed_as_far
from trimtab.flows.steps import train as training
from trimtab.flows.trials import Swept, Trial
from trimtab.flows.watch import Silent, Watch
from trimtab.flows.work import Outputs, Work
from trimtab.project import Project, with_fields
from trimtab.store.database import Connection
from trimtab.store.home import Home, find_home
from trimtab.train.context import context_of
from trimtab.train.heldout import hold_out
from trimtab.train.layout import layout_of, steps_of
from trimtab.train.objectives import objective_of
from trimtab.train.preflight import preflight
from trimtab.train.run import Paused, RunFolder, RunResult, StepProgress
from trimtab.train.settings import TrainSettings
from trimtab.train.start import train_until
from trimtab.train.watch.limits import HOUR, Pause

STEP = "sweep"


class OutOfBudget(Exception):
    """The next step of a trial would pass the sweep's budget; `trial` knows what it spent."""

    def __init__(self, trial: Trial) -> None:
        super().__init__()
        self.trial = trial


def sweep(project: Project, home: Home | None = None, *, watch: Watch | None = None) -> Swept:
    """Run the sweep that a project declares, skipping what is done.

    Raises ProjectError where it declares none, or its objective has no held-out loss; InUse,
    StorageFull and Preempted as training does.
    """
    section = project.sweep
    if section is None:
        raise ProjectError(
            "the project declares no sweep",
            hint="e.g. sweep: {over: {train.learning_rate: [0.0001, 0.0005]}}",
        )
    if objective_of(project.train.objective).rollouts:
        raise ProjectError(
            f"sweep: {project.train.objective} learns from its own answers, and has no loss on "
            "records held out",
            hint="sweep over sft, dpo, kto, orpo or reward",
        )
    home = home or find_home(None, project.root)
    watch = watch or Silent()
    outputs = run(project, home, until="plan", watch=watch).outputs
    with ExitStack() as stack:
        stack.enter_context(home.lock(project.name))
        database = home.database()
        stack.callback(database.close)
        work = Work(project, home, database, watch, stack)
        return _Sweep(work, outputs).whole()


def choices(over: dict[str, list[Any]], trials: int, seed: int) -> list[dict[str, Any]]:
    """Every combination of the values, or as many of them as asked for, drawn by the seed."""
    every = [dict(zip(over, values, strict=True)) for values in itertools.product(*over.values())]
    if len(every) <= trials:
        return every
    places = sorted(random.Random(seed).sample(range(len(every)), trials))
    return [every[place] for place in places]


def rungs(trials: int, eta: int) -> list[tuple[int, float]]:
    """How many trials take part in each rung, and to what share of their steps it goes."""
    count = 1
    while trials // eta**count >= 1:
        count += 1
    return [(max(1, trials // eta**rung), eta ** (rung - count + 1.0)) for rung in range(count)]


class _Sweep:
    """The state of one sweep under way."""

    def __init__(self, work: Work, outputs: Outputs) -> None:
        assert work.project.sweep is not None
        self._work = work
        self._outputs = outputs
        self._section = work.project.sweep
        self._journal = StepJournal(work.database, work.project.name)
        self._lessons = lessons_of(work.dataset(outputs).train)
        # What the first step of an attempt has taken at most, and what came behind the last one:
        # the look at the records held out, and the checkpoint.
        self._head = self._tail = 0.0
        self._trials = list(self._drawn())

    def whole(self) -> Swept:
        """Climb the rungs."""
        trials, whole = self._trials, True
        racing = list(range(len(trials)))
        self._work.watch.started(STEP)
        for rung, (count, share) in enumerate(rungs(len(trials), self._section.eta), start=1):
            racing = sorted(racing, key=lambda at: (trials[at].held_out, at))[:count]
            try:
                for at in sorted(racing):
                    step = max(1, math.ceil(share * trials[at].steps))
                    trials[at] = replace(self._to(trials[at], step), rung=rung)
            except OutOfBudget as over:
                trials[over.trial.number - 1] = over.trial
                whole = False
            racing = [at for at in racing if trials[at].verdict == "left"]
            if not whole or not racing:
                break
        if (best := self._best()) is not None:
            best = replace(best, verdict="best")
            trials[best.number - 1] = best
        swept = Swept(self._work.project, self._work.home, tuple(trials), best, whole)
        self._work.watch.finished(STEP, swept.line, swept.seconds)
        return swept

    def _best(self) -> Trial | None:
        """The lowest loss on the highest rung."""
        measured = [trial for trial in self._trials if trial.looks and trial.verdict != "failed"]
        return min(measured, key=lambda trial: (-trial.rung, trial.held_out), default=None)

    def _drawn(self) -> Iterator[Trial]:
        section = self._work.project.train
        objective = objective_of(section.objective)
        context = context_of(self._work.base.folder, settings_of(self._work.project))
        chat, lessons = self._work.chat, self._lessons
        checked = preflight(
            chat, lessons, section.max_length, objective, context, turns=section.turns
        )
        kept, _ = hold_out(checked, HELD_OUT, section.seed)
        lengths = [row.longest for row in kept.examples]
        over = choices(self._section.over, self._section.trials, section.seed)
        for number, fields in enumerate(over, start=1):
            work = self._work_of(fields)
            check_method(work.project)
            run = content_hash(self._inputs(work))[:32]
            settings = self._settings(work)
            steps = steps_of(layout_of(settings, lengths), settings)
            yield Trial(number, fields, run, steps)

    def _work_of(self, fields: dict[str, Any]) -> Work:
        made = replace(self._work, project=with_fields(self._work.project, fields))
        # No field that is swept changes them, and a base is read to know its hash.
        made.base, made.chat = self._work.base, self._work.chat
        return made

    def _settings(self, work: Work) -> TrainSettings:
        # The limits are the sweep's: one budget for all of them.
        return replace(
            settings_of(work.project),
            validation=HELD_OUT,
            patience=None,
            deadline_s=None,
            budget_usd=None,
        )

    def _inputs(self, work: Work) -> dict[str, Any]:
        return {**training.inputs(work, self._outputs), "settings": self._settings(work).to_json()}

    def _to(self, trial: Trial, step: int) -> Trial:
        """Take a trial to a step: from the journal, or by training. Raises OutOfBudget."""
        if trial.step >= step:
            return trial
        work = self._work_of(trial.fields)
        inputs = self._inputs(work)
        key = content_hash({"release": __version__, **inputs, "step": step})
        if (found := self._journal.find(STEP, key)) is not None:
            return trial.behind(found)
        self._journal.start(STEP, key)
        try:
            output = self._trained(work, trial, step)
        except OutOfBudget as over:
            with self._work.database.transaction() as connection:
                self._bill(connection, over.trial.run, over.trial.usd)
            raise
        with self._work.database.transaction() as connection:
            self._bill(connection, trial.run, output["usd"])
            self._journal.finish(connection, STEP, key, output)
        return trial.behind(output)

    def _trained(self, work: Work, trial: Trial, step: int) -> dict[str, Any]:
        left = self._seconds_left()
        if left < self._head + self._tail:
            raise OutOfBudget(trial)
        settings = self._settings(work)
        seen: list[float] = []

        def on_step(progress: StepProgress) -> None:
            seen.append(progress.seconds)
            what = f"trial {trial.number} of {len(self._trials)} to step {step}"
            self._work.watch.advanced(what, progress.step, step, training.noted(progress))

        try:
            with billed_as_far(self._work, trial.run, settings.limits):
                reached = train_until(
                    work.base.folder,
                    work.chat,
                    self._lessons,
                    settings,
                    work.home.runs / trial.run,
                    pause=Pause(step, trial.seconds + left, self._tail),
                    on_step=on_step,
                )
        except RunFailed as error:
            seconds = RunFolder(work.home.runs / trial.run).used_s
            return {"failed": error.message, "seconds": seconds, "usd": self._usd(seconds)}
        at = reached.steps if isinstance(reached, RunResult) else reached.step
        assert reached.held_out is not None
        if seen:
            self._head = max(self._head, seen[0] - trial.seconds)
            self._tail = max(self._tail, reached.seconds - seen[-1])
        output = {
            "step": at,
            "held_out": reached.held_out,
            "seconds": reached.seconds,
            "usd": self._usd(reached.seconds),
        }
        if isinstance(reached, Paused) and at < step:
            # Between two rungs a loss says nothing beside the others'.
            seconds = reached.seconds
            raise OutOfBudget(
                replace(trial, verdict="out of budget", seconds=seconds, usd=self._usd(seconds))
            )
        return output

    def _bill(self, connection: Connection, run: str, usd: float) -> None:
        bill_training(connection, self._work.project.name, run, usd)

    def _usd(self, seconds: float) -> float:
        return seconds / HOUR * self._work.project.train.usd_hour

    def _seconds_left(self) -> float:
        """How long the budget lasts; infinite where there is none."""
        section, price = self._section, self._work.project.train.usd_hour
        limits = [math.inf]
        if section.budget_hours is not None:
            limits.append(section.budget_hours * HOUR)
        if section.budget_usd is not None and price:
            limits.append(section.budget_usd / price * HOUR)
        return min(limits) - sum(trial.seconds for trial in self._trials)
