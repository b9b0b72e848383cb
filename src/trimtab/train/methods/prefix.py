"""Prefix tuning: learnt keys and values before the prompt, in every layer (Li and Liang 2021)."""

from peft import PrefixTuningConfig

from trimtab.train.settings import TrainSettings


def config(settings: TrainSettings, task: str) -> PrefixTuningConfig:
    """PEFT's configuration: `train.rank` virtual tokens; `task` is PEFT's name of the head."""
    return PrefixTuningConfig(task_type=task, num_virtual_tokens=settings.rank)
