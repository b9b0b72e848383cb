"""From a project file to what the room `train` takes."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from trimtab.project import Project
from trimtab.train.launchers import Launch, refusals
from trimtab.train.settings import TrainSettings

# Share of the training records that the loss is watched on, where it may end the run.
HELD_OUT = 0.05


def settings_of(project: Project) -> TrainSettings:
    """The project's `train` section; hours become seconds. The launch is the plan's to choose."""
    section = project.train
    hours = section.deadline_hours
    return TrainSettings(
        objective=section.objective,
        method=section.method,
        rank=section.rank,
        alpha=section.alpha,
        dropout=section.dropout,
        targets=section.targets if isinstance(section.targets, str) else tuple(section.targets),
        epochs=section.epochs,
        batch_size=section.batch_size,
        accumulation=section.accumulation,
        packing=section.packing,
        turns=section.turns,
        learning_rate=section.learning_rate,
        max_length=section.max_length,
        seed=section.seed,
        deadline_s=None if hours is None else hours * 3600,
        budget_usd=section.budget_usd,
        usd_hour=section.usd_hour,
        validation=0.0 if section.patience is None else HELD_OUT,
        patience=section.patience,
        extra=section.extra,
    )


def planned(project: Project, plan: Mapping[str, Any]) -> TrainSettings:
    """The same, launched as the output of the plan says, at the price of all its machines."""
    asked = settings_of(project)
    price = asked.usd_hour * plan["machines"]
    return replace(asked, launch=Launch(**plan["launch"]), usd_hour=price)


def asked_launch(project: Project, devices: int) -> Launch | None:
    """The launch that the project asks for, on a machine of so many devices; None where the plan
    is to choose.
    """
    asked = project.train.launcher
    if asked.kind == "auto":
        return None
    ranks = 1 if asked.kind in ("local", "tpu") else devices
    return Launch(asked.kind, asked.ranks or ranks, asked.sharding, asked.offload)


def refused_launch(project: Project, devices: int, method: str) -> str:
    """Every reason against the launch that is asked for; empty where there is none."""
    launch = asked_launch(project, devices)
    if launch is None:
        return ""
    section = project.train
    early = section.patience is not None
    found = refusals(launch, section.objective, method, settings_of(project).groups, early)
    return "; ".join(f"{launch}: {no.reason}" for no in found)
