"""ms-swift beside us. It packs under flash attention alone, which no CPU has."""

from pathlib import Path
from typing import Any

from benchmarks.serve import peers
from benchmarks.serve.material import base_folder
from benchmarks.train import apart
from benchmarks.train.material import Material
from benchmarks.train.trained import SCHEDULE, Trained


def ms_swift(found: Material, folder: Path) -> Trained:
    """Raises Absent."""
    return apart.trained(peers.SWIFT, "ms_swift.py", found, folder, arguments(found))


def arguments(found: Material) -> dict[str, Any]:
    asked = found.settings
    targets = [asked.targets] if isinstance(asked.targets, str) else list(asked.targets)
    told: dict[str, Any] = {
        "model": str(base_folder()),
        "model_type": "llama",
        "torch_dtype": "float32",
        "attn_impl": "sdpa",
        "use_cpu": True,
        "tuner_type": "lora",
        "lora_rank": asked.rank,
        "lora_alpha": asked.alpha,
        "lora_dropout": asked.dropout,
        "target_modules": targets,
        "learning_rate": asked.rate,
        **SCHEDULE,
        # Its own are 0.1 and 0.95; these are everybody else's.
        "weight_decay": 0.0,
        "adam_beta2": 0.999,
        "num_train_epochs": 1,
        "per_device_train_batch_size": 1,
        "gradient_accumulation_steps": len(found.taught) // found.steps,
        "gradient_checkpointing": False,
        "max_length": asked.max_length,
        "seed": asked.seed,
        "logging_steps": 1,
        "save_strategy": "steps",
        "save_steps": found.steps,
        "save_only_model": True,
        "report_to": [],
        "dataloader_num_workers": 0,
        "dataloader_pin_memory": False,
    }
    if asked.method == "qlora":
        told |= {
            "quant_method": "bnb",
            "quant_bits": 4,
            "bnb_4bit_quant_type": "nf4",
            "bnb_4bit_use_double_quant": True,
            "bnb_4bit_compute_dtype": "float32",
        }
    if asked.objective == "dpo":
        told |= {"rlhf_type": "dpo", "beta": 0.1}
    return told
