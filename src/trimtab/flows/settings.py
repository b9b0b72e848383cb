"""From a project file to what the room `train` takes."""

from trimtab.project import Project
from trimtab.train.settings import TrainSettings


def settings_of(project: Project) -> TrainSettings:
    """The project's `train` section; hours become seconds."""
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
        learning_rate=section.learning_rate,
        max_length=section.max_length,
        seed=section.seed,
        deadline_s=None if hours is None else hours * 3600,
        extra=section.extra,
    )
