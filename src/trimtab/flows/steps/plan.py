"""plan: which methods fit this machine, what each would take, and the one to train with."""

from collections.abc import Sequence
from dataclasses import asdict, replace
from statistics import median
from typing import Any

from trimtab.flows.backends import backend_of, unserved
from trimtab.flows.lessons import lessons_of
from trimtab.flows.settings import asked_launch, refused_launch, settings_of
from trimtab.flows.work import Outputs, Result, Work
from trimtab.plan.candidates import Limits, Plan, Spreads, duration, gigabytes, make_plan
from trimtab.plan.machine import Machine, this_machine
from trimtab.plan.memory import Memory
from trimtab.plan.shape import read_shape
from trimtab.plan.spread import Spread, choose
from trimtab.plan.work import Packed
from trimtab.plan.work import Work as TrainingWork
from trimtab.project import Project
from trimtab.train.context import context_of
from trimtab.train.launchers import SHARDINGS, Launch, refusals
from trimtab.train.layout import layout_of
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
        "engine": asdict(backend_of(work.project)),
    }


def work(work: Work, outputs: Outputs) -> Result:
    """Preflight tells what there is to train; the plan refuses what cannot be done in time."""
    section = work.project.train
    lessons = lessons_of(work.dataset(outputs).train)
    objective = objective_of(section.objective)
    context = context_of(work.base.folder, settings_of(work.project))
    checked = preflight(
        work.chat, lessons, section.max_length, objective, context, turns=section.turns
    )
    plan = _plan(work, checked)
    chosen = plan.choice(section.method)
    output = {
        "plan": plan.to_json(),
        "rows": [list(row) for row in plan.rows()],
        "chosen": chosen.name,
        "launch": launch_of(chosen.spread).to_json(),
        "launch_why": chosen.spread.why,
        "machines": chosen.cost.machines,
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
        devices=where.count,
    )
    training = training_work(checked, settings_of(work.project))
    hours = section.deadline_hours
    limits = Limits(section.budget_usd, None if hours is None else hours * 3600)
    closed = {
        method: f"{section.objective} by {method}: {reason}"
        for method in METHODS
        if (reason := why_not(section.objective, method))
        or (reason := refused_launch(work.project, where.count, method))
        or (reason := unserved(work.project, method))
    }
    shape = read_shape(work.base.folder)
    return make_plan(shape, training, [machine], limits, closed, spreads(work.project))


def spreads(project: Project) -> Spreads:
    """How a method lies over devices: as the project asks, else by what it needs."""
    section = project.train

    def spread(method: str, memory: Memory, machine: Machine) -> Spread:
        asked = asked_launch(project, machine.devices)
        if asked is not None:
            return Spread(**asked.to_json(), why="the project asks for it")
        batch, early = settings_of(project).groups, section.patience is not None
        shardings = [
            name
            for name in SHARDINGS
            if not any(
                refusals(Launch("torchrun", 2, name), section.objective, method, 2 * batch, early)
            )
        ]
        return choose(memory, machine, batch, shardings)

    return spread


def launch_of(spread: Spread) -> Launch:
    """The plan's words as training's."""
    return Launch(spread.kind, spread.ranks, spread.sharding, spread.offload)


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
        checkpointed=bool(settings.extra.get("gradient_checkpointing", False)),
        # It compares the rows of a batch.
        fewest=2 if objective.name == "kto" else 1,
        median=int(median(row.longest for row in checked.examples)),
    )
    if settings.packing:
        return replace(found, packed=packed(checked, settings, found.shared_prefix))
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


def packed(checked: Preflight, settings: TrainSettings, shared: int) -> Packed:
    """The packed rows as they will be trained, `shared` tokens of each batch computed once."""
    lengths = [row.longest for row in checked.examples]
    layout = layout_of(settings, lengths)
    batches = [[place for row in batch for place in row] for batch in layout]
    rows = [row for batch in layout for row in batch]

    def tokens(places: Sequence[int]) -> int:
        return sum(lengths[at] - shared for at in places) + shared

    def labels(places: Sequence[int]) -> int:
        return sum(checked.examples[at].supervised for at in places)

    return Packed(
        batches=len(batches),
        records=max(map(len, batches)),
        tokens=max(map(tokens, batches)),
        labels=max(map(labels, batches)),
        row_records=max(map(len, rows)),
        row_tokens=max(map(tokens, rows)),
        row_labels=max(map(labels, rows)),
    )
