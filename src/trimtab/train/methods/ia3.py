"""IA3: a learnt factor on keys, values and what the MLP hands down (Liu et al. 2022)."""

from peft import IA3Config

from trimtab.train.settings import TrainSettings


def config(settings: TrainSettings, task: str) -> IA3Config:
    """PEFT's configuration; `task` is PEFT's name of the head.

    Which modules are scaled follows from the architecture: IA3 means these and no others.
    """
    return IA3Config(task_type=task)
