"""QLoRA (Dettmers et al. 2023): LoRA over a base whose linear layers lie in 4 bits.

nf4 with double quantisation, by bitsandbytes, which is imported where a base is loaded so. What is
saved is a LoRA adapter, served over the base's full weights like any other.
"""

import logging

import torch
from peft import LoraConfig
from transformers import BitsAndBytesConfig

from trimtab.train.methods import lora
from trimtab.train.settings import TrainSettings


def config(settings: TrainSettings, task: str) -> LoraConfig:
    """PEFT's configuration; `task` is PEFT's name of the head."""
    return lora.config(settings, task)


def quantisation(dtype: torch.dtype) -> BitsAndBytesConfig:
    """How a base is read; matrices are widened to `dtype` where they are multiplied."""
    # It warns of a kernel that it would fetch from the Hub, and computes without it.
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    return BitsAndBytesConfig(  # type: ignore[no-untyped-call]
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
    )
