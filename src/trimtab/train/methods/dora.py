"""DoRA: LoRA turns each column of a weight, and a vector of its own gives its length."""

from peft import LoraConfig

from trimtab.train.methods import lora
from trimtab.train.settings import TrainSettings


def config(settings: TrainSettings, task: str) -> LoraConfig:
    """PEFT's configuration; `task` is PEFT's name of the head."""
    found = lora.config(settings, task)
    found.use_dora = True
    return found
