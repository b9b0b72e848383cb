"""plan: which methods fit this machine, what each would take, and the one to train with."""

from dataclasses import replace
from typing import Any

from trimtab.flows.lessons import lessons_of
from trimtab.flows.settings import settings_of
from trimtab.flows.work import Outputs, Result, Work
from trimtab.plan.candidates import Limits, Plan, duration, gigabytes, make_plan
from trimtab.plan.machine import this_machine
from trimtab.plan.shape import read_shape
from trimtab.plan.work import Work as TrainingWork
from trimtab.train.methods import METHODS
from trimtab.train.objectives import SFT, objective_of
from trimtab.train.pairing import why_not
from trimtab.train.preflight import Preflight, preflight
from trimtab.train.settings import TrainSettings
from trimtab.train.speed import device, gemm_rate


def inputs(work: Work, outputs: Outputs) -> dict[str, Any]:
    return {
        "dataset": outputs["data"]["dataset"],
        "base": work.base.hash,
        "chat_template": work.chat.template.source,
        "system": work.chat.system,
        "train": work.project.train.model_dump(),
    }


def work(work: Work, outputs: Outputs) -> Result:
    """Preflight tells what there is to train; the plan refuses what cannot be done in time."""
    section = work.project.train
    lessons = lessons_of(work.dataset(outputs).train)
    objective = objective_of(section.objective)
    checked = preflight(work.chat, lessons, section.max_length, objective)
    plan = _plan(work, checked)
    chosen = plan.choice(section.method)
    output = {
        "plan": plan.to_json(),
        "rows": [list(row) for row in plan.rows()],
        "chosen": chosen.name,
        "seconds": chosen.cost.seconds,
        "usd": chosen.cost.usd,
        "preflight": checked.to_json(),
    }
    line = (
        f"{chosen.name}: {gigabytes(chosen.memory.total)}, about "
        f"{duration(chosen.cost.seconds)}, ${chosen.cost.usd:.2f}"
    )
    return Result(output, line)


def _plan(work: Work, checked: Preflight) -> Plan:
    section = work.project.train
    where = device()
    machine = this_machine(
        device=where.name,
        dtype=where.dtype,
        rate=gemm_rate(where),
        device_memory=where.memory,
        usd_hour=section.usd_hour,
    )
    training = training_work(checked, settings_of(work.project))
    hours = section.deadline_hours
    limits = Limits(section.budget_usd, None if hours is None else hours * 3600)
    closed = {
        method: f"{section.objective} by {method}: {reason}"
        for method in METHODS
        if (reason := why_not(section.objective, method))
    }
    return make_plan(read_shape(work.base.folder), training, [machine], limits, closed)


def training_work(checked: Preflight, settings: TrainSettings) -> TrainingWork:
    """What the run computes, in the plan's words."""
    objective = objective_of(settings.objective)
    found = TrainingWork(
        records=len(checked.examples),
        tokens=checked.tokens,
        supervised=checked.supervised,
        longest=checked.longest,
        # Only SFT computes it once, and dropout would fall on it in every row alike.
        shared_prefix=checked.shared_prefix if objective == SFT and not settings.dropout else 0,
        epochs=settings.epochs,
        batch_size=settings.batch_size,
        accumulation=settings.accumulation,
        rank=settings.rank,
        targets=settings.targets,
        rows=objective.rows,
        forwards=objective.forwards,
        reference=objective.reference,
    )
    if not objective.rollouts:
        return found
    prompts, answers = [len(row.prompt) for row in checked.examples], settings.generations
    return replace(
        found,
        tokens=answers * (sum(prompts) + settings.answer * len(prompts)),
        supervised=answers * settings.answer * len(prompts),
        longest=max(prompts) + settings.answer,
        batch_size=max(1, settings.batch_size // answers),
        rows=answers,
        written=settings.answer,
        iterations=settings.iterations,
    )
