"""ms-swift beside us: an environment and a process of its own, over our build of torch.

It is given our tokens and labels, and set as TRL is tuned: a record at a time, nothing computed
twice, freed memory kept. It packs under flash attention alone, which no CPU has.
"""

import json
import os
import subprocess
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.machine import ROOT
from benchmarks.serve import peers
from benchmarks.serve.material import base_folder
from benchmarks.train.material import Material
from benchmarks.train.trained import SCHEDULE, Trained, adapted

FACE = ROOT / "benchmarks" / "train" / "faces" / "ms_swift.py"
# The whole job, started to saved: several times what it takes.
PATIENCE_S = 900


def ms_swift(found: Material, folder: Path) -> Trained:
    """Raises Absent where its environment cannot be made, or it ends before its training does."""
    from trimtab.train.speed import KEPT

    request = folder / "request.json"
    rows = [asdict(row) for row in found.rows(found.taught)]
    request.write_text(json.dumps({"rows": rows, "arguments": arguments(found)}))
    done = subprocess.run(
        [str(peers.python_of(peers.SWIFT)), str(FACE), str(request)],
        # Without our sources, which another version of a library would meet.
        env={key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
        | {
            "MALLOC_MMAP_THRESHOLD_": str(KEPT),
            "MALLOC_TRIM_THRESHOLD_": str(KEPT),
            "HF_HUB_OFFLINE": "1",
        },
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
    )
    if done.returncode:
        raise peers.Absent(done.stderr.strip().rpartition("\n")[2])
    told = json.loads((folder / "told.json").read_text())
    adapter = Path(told["adapter"])
    return Trained(
        lambda: adapted(found, adapter), told["seconds"], told["losses"], told["peak_mb"]
    )


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
