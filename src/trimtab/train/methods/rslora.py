"""rsLoRA: alpha over the root of the rank, so that a high rank learns as fast as a low one."""

from peft import LoraConfig

from trimtab.train.methods import lora
from trimtab.train.settings import TrainSettings


def config(settings: TrainSettings, task: str) -> LoraConfig:
    """PEFT's configuration; `task` is PEFT's name of the head."""
    found = lora.config(settings, task)
    found.use_rslora = True
    return found
