"""Prompt tuning: learnt vectors before the embedded prompt (Lester et al. 2021)."""

from peft import PromptTuningConfig

from trimtab.train.settings import TrainSettings


def config(settings: TrainSettings, task: str) -> PromptTuningConfig:
    """PEFT's configuration: `train.rank` vectors; `task` is PEFT's name of the head."""
    return PromptTuningConfig(task_type=task, num_virtual_tokens=settings.rank)
