"""plan: which methods fit this machine, what each would take, and the one to train with."""

from typing import Any

from trimtab.flows.lessons import lessons_of
from trimtab.flows.work import Outputs, Result, Work
from trimtab.plan.candidates import Limits, Plan, duration, gigabytes, make_plan
from trimtab.plan.machine import this_machine
from trimtab.plan.shape import read_shape
from trimtab.plan.work import Work as TrainingWork
from trimtab.train.methods import METHODS
from trimtab.train.objectives import objective_of
from trimtab.train.pairing import why_not
from trimtab.train.preflight import Preflight, preflight
from trimtab.train.speed import device, gemm_rate


def inputs(work: Work, outputs: Outputs) -> dict[str, Any]:
    return {
        "dataset": outputs["data"]["dataset"],
        "base": work.base.hash,
        "system": work.project.data.system,
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
        device=where.name, dtype=where.dtype, rate=gemm_rate(where), device_memory=where.memory
    )
    training = TrainingWork(
        records=len(checked.examples),
        tokens=checked.tokens,
        supervised=checked.supervised,
        longest=checked.longest,
        shared_prefix=checked.shared_prefix,
        epochs=section.epochs,
        batch_size=section.batch_size,
        accumulation=section.accumulation,
        rank=section.rank,
        targets=section.targets,
    )
    hours = section.deadline_hours
    limits = Limits(section.budget_usd, None if hours is None else hours * 3600)
    closed = {
        method: f"{section.objective} by {method}: {reason}"
        for method in METHODS
        if (reason := why_not(section.objective, method))
    }
    return make_plan(read_shape(work.base.folder), training, [machine], limits, closed)
