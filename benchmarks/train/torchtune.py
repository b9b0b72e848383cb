"""torchtune beside us, by its recipes for one device.

It packs into rows under one dense mask where there is no card, as TRL does, which is slower than a
record at a time.
"""

from pathlib import Path
from typing import Any

from benchmarks.serve import peers
from benchmarks.serve.material import base_folder
from benchmarks.train import apart
from benchmarks.train.material import Material
from benchmarks.train.trained import Trained

# Its names for what the quickstart attaches to.
ATTENTION = {"q_proj": "q_proj", "k_proj": "k_proj", "v_proj": "v_proj", "o_proj": "output_proj"}


def torchtune(found: Material, folder: Path) -> Trained:
    """Raises Absent."""
    if found.settings.method == "qlora":
        raise peers.Absent("torchtune wants 4-bit scales in whole blocks, which this base has not")
    return apart.trained(peers.TORCHTUNE, "tune.py", found, folder, arguments(found))


def arguments(found: Material) -> dict[str, Any]:
    """The recipe's configuration, without what the face adds."""
    asked = found.settings
    told: dict[str, Any] = {
        "device": "cpu",
        "dtype": "fp32",
        "seed": asked.seed,
        "epochs": 1,
        "max_steps_per_epoch": None,
        "batch_size": 1,
        "gradient_accumulation_steps": len(found.taught) // found.steps,
        "shuffle": False,
        "compile": False,
        "enable_activation_checkpointing": False,
        "resume_from_checkpoint": False,
        "save_adapter_weights_only": True,
        # Everybody else's.
        "clip_grad_norm": 1.0,
        "model": _model(found),
        "checkpointer": {
            "_component_": "torchtune.training.FullModelHFCheckpointer",
            "checkpoint_dir": str(base_folder()),
            "checkpoint_files": sorted(file.name for file in base_folder().glob("*.safetensors")),
            "model_type": "LLAMA3_2",
        },
        "optimizer": {
            "_component_": "torch.optim.AdamW",
            "fused": True,
            "lr": asked.rate,
            "weight_decay": 0.0,
        },
        "lr_scheduler": {
            "_component_": "torchtune.training.lr_schedulers.get_cosine_schedule_with_warmup",
            "num_warmup_steps": 0,
        },
        # Its own loss takes a record's logits in eight parts, each a product of some twenty rows.
        "loss": {"_component_": "torch.nn.CrossEntropyLoss"},
    }
    if asked.objective == "dpo":
        told["loss"] = {"_component_": "torchtune.rlhf.loss.DPOLoss", "beta": 0.1}
    return told


def _model(found: Material) -> dict[str, Any]:
    """Llama 3.2 in the base's sizes: both tie the head to the embeddings."""
    from transformers import AutoConfig

    asked, config = found.settings, AutoConfig.from_pretrained(base_folder())
    everywhere = asked.targets == "all-linear"
    return {
        "_component_": "torchtune.models.llama3_2.lora_llama3_2",
        "lora_attn_modules": [ATTENTION[name] for name in ATTENTION if everywhere]
        or [ATTENTION[name] for name in asked.targets],
        "apply_lora_to_mlp": everywhere,
        "vocab_size": config.vocab_size,
        "num_layers": config.num_hidden_layers,
        "num_heads": config.num_attention_heads,
        "num_kv_heads": config.num_key_value_heads,
        "embed_dim": config.hidden_size,
        "intermediate_dim": config.intermediate_size,
        "max_seq_len": asked.max_length,
        "norm_eps": config.rms_norm_eps,
        "rope_base": int(config.rope_parameters["rope_theta"]),
        # Rotations as they are: Llama 3.2 slows some of them down.
        "scale_factor": 1,
        "lora_rank": asked.rank,
        "lora_alpha": asked.alpha,
        "lora_dropout": asked.dropout,
    }
