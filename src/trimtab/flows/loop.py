"""The loop: data, plan, train, register, verify, evaluate, gate, shadow, promote.

Each step is idempotent by the hash of its inputs and committed with its output, so that a loop that
was killed anywhere goes on from there and ends in the same state.
"""

import time
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

from trimtab import __version__
from trimtab.canonical import content_hash, short
from trimtab.flows import backends
from trimtab.flows.backends import check_method
from trimtab.flows.bills import settle_left
from trimtab.flows.journal import StepJournal
from trimtab.flows.serving import declare_policy
from trimtab.flows.spending import charged
from trimtab.flows.steps import STEPS, Step
from trimtab.flows.watch import Silent, Watch
from trimtab.flows.work import Work
from trimtab.project import Project
from trimtab.registry import deployments, versions
from trimtab.store.home import Home, find_home


@dataclass(frozen=True)
class Outcome:
    """How far a loop came. `refused` says why it ended before its last step; empty if it did not.

    `outputs` holds each step's output as the journal keeps it, and `lines` its line for people.
    """

    project: Project
    home: Home
    outputs: Mapping[str, Mapping[str, Any]]
    lines: Mapping[str, str] = field(default_factory=dict)
    refused: str = ""

    @property
    def promoted(self) -> bool:
        """Whether the loop's version is what the deployment answers with."""
        return "promote" in self.outputs and not self.refused


def run(
    project: Project,
    home: Home | None = None,
    *,
    until: str = "promote",
    watch: Watch | None = None,
) -> Outcome:
    """Run the loop up to a step, skipping what is done.

    Raises InUse where another process runs this project, UserError for what the user can mend, and
    IdentityError where a version is not what was trained.
    """
    home = home or find_home(None, project.root)
    watch = watch or Silent()
    with ExitStack() as stack:
        stack.enter_context(home.lock(project.name))
        database = home.database()
        stack.callback(database.close)
        settle_left(home, database)
        declare_policy(database, project)
        check_method(project)
        work = Work(project, home, database, watch, stack)
        outcome = _steps(work, StepJournal(database, project.name), until)
        if "register" in outcome.outputs:
            _settle(work, outcome)
        return outcome


def _settle(work: Work, outcome: Outcome) -> None:
    """What was proved on an engine is served by it; what was refused does not stay there. Done
    after every run, since a choice that was taken back and taken again is in the journal already.
    """
    version = outcome.outputs["register"]["version"]
    if outcome.refused:
        work.release(version)
    elif outcome.promoted:
        with work.database.transaction() as connection:
            backends.declare(connection, work.project, versions.get(connection, version).spec.base)


def _steps(work: Work, journal: StepJournal, until: str) -> Outcome:
    outputs: dict[str, dict[str, Any]] = {}
    lines: dict[str, str] = {}
    for step in STEPS:
        outputs[step.name], lines[step.name] = _step(work, journal, step, outputs)
        refused = _refusal(work, outputs)
        if refused or step.name == until:
            return Outcome(work.project, work.home, outputs, lines, refused)
    return Outcome(work.project, work.home, outputs, lines)


def _step(
    work: Work, journal: StepJournal, step: Step, outputs: Mapping[str, Mapping[str, Any]]
) -> tuple[dict[str, Any], str]:
    """A step's output and line: from the journal, or made now."""
    key = content_hash({"release": __version__, **step.inputs(work, outputs)})
    if (found := journal.find(step.name, key)) is not None:
        work.watch.skipped(step.name, found["line"])
        return found["output"], found["line"]
    started = time.monotonic()
    work.watch.started(step.name)
    journal.start(step.name, key)
    with charged(work, step.name, key) as charge:
        result = step.work(work, outputs)
        done = {"output": result.output, "line": result.line}
        with work.database.transaction() as connection:
            result.write(connection)
            charge(connection, result.output)
            journal.finish(connection, step.name, key, done)
    work.watch.finished(step.name, result.line, time.monotonic() - started)
    return result.output, result.line


def _superseded(work: Work, outputs: Mapping[str, Mapping[str, Any]]) -> str:
    """Why a version that was promoted in an earlier run is not live any more; else empty."""
    promoted, name = outputs["promote"]["live"], work.project.deployment
    with work.database.read() as connection:
        if deployments.get(connection, name).live == promoted:
            return ""
        state = versions.get(connection, promoted).state
        event = deployments.made_live(connection, name)
    return f"version {short(promoted)} was live and is {state} ({event.kind}: {event.why})"


def _refusal(work: Work, outputs: Mapping[str, Mapping[str, Any]]) -> str:
    """Why the loop ends here: a reward model, which only ranks; a gate that does not say better, a
    shadow that failed, a rollback.
    """
    if "reward_model" in outputs.get("train", {}):
        run = outputs["train"]["run"][:12]
        return f"a reward model is not served: name run:{run} in train.rewards"
    if "gate" in outputs and outputs["gate"]["verdict"] != "better":
        return f"the gate says {outputs['gate']['verdict']}"
    if "shadow" in outputs and not outputs["shadow"]["passed"]:
        return f"shadow: {outputs['shadow']['reason']}"
    return _superseded(work, outputs) if "promote" in outputs else ""
