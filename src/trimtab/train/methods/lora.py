"""LoRA and its two kin: the same pair beside each target, scaled or normed otherwise."""

from peft import LoraConfig

from trimtab.train.settings import TrainSettings


def config(settings: TrainSettings, task: str) -> LoraConfig:
    """PEFT's configuration; `task` is PEFT's name of the head."""
    targets = settings.targets if isinstance(settings.targets, str) else list(settings.targets)
    return LoraConfig(
        task_type=task,
        r=settings.rank,
        lora_alpha=settings.alpha,  # type: ignore[arg-type]  # PEFT divides it; floats are fine
        lora_dropout=settings.dropout,
        target_modules=targets,
    )
