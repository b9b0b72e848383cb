"""What a system leaves behind when it has trained a case, and how everybody's result is loaded."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.serve.material import base_folder
from benchmarks.train.material import Material

# The quickstart's own warm-up would leave the first step, here the only one, at a rate of nothing.
SCHEDULE: dict[str, Any] = {"lr_scheduler_type": "cosine", "warmup_steps": 0}


@dataclass(frozen=True)
class Trained:
    """`load` gives the model with its adapter; `losses` are those of the steps, each before its
    update; `peak_mb` is of a process of its own, if any.
    """

    load: Callable[[], Any]
    seconds: float
    losses: list[float]
    peak_mb: float | None = None


Run = Callable[[Material, Path], Trained]


def adapted(found: Material, adapter: Path) -> Any:
    from peft import PeftModel

    return PeftModel.from_pretrained(loaded(found), str(adapter), is_trainable=True)


def loaded(found: Material) -> Any:
    """The base in float32, or for QLoRA its matrices in 4 bits, as the quickstart has them."""
    import torch
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    more: dict[str, Any] = {}
    if found.settings.method == "qlora":
        more["quantization_config"] = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=torch.float32,
        )
    return AutoModelForCausalLM.from_pretrained(base_folder(), dtype=torch.float32, **more)
