"""Bases of random weights in the shapes of known ones, where those themselves cannot be had.

What they say means nothing; what they cost is what the real ones cost. Their tokenizer has the
words of the example and, for every other token, a name.
"""

import json
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks.machine import ROOT
from benchmarks.serve.material import base_folder

COMMON: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_act": "silu",
    "attention_bias": False,
    "mlp_bias": False,
    "rms_norm_eps": 1e-5,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 2,
    "dtype": "bfloat16",
}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 500000.0,
    "factor": 32.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}


def _sizes(
    layers: int, hidden: int, between: int, heads: int, kv_heads: int, head_dim: int, words: int
) -> dict[str, int]:
    return {
        "num_hidden_layers": layers,
        "hidden_size": hidden,
        "intermediate_size": between,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "head_dim": head_dim,
        "vocab_size": words,
    }


SHAPES: dict[str, dict[str, Any]] = {
    "smollm2-135m": {
        **COMMON,
        **_sizes(30, 576, 1536, 9, 3, 64, 49152),
        "max_position_embeddings": 8192,
        "rope_parameters": {"rope_type": "default", "rope_theta": 100000.0},
        "tie_word_embeddings": True,
    },
    "llama-3.2-1b": {
        **COMMON,
        **_sizes(16, 2048, 8192, 32, 8, 64, 128256),
        "max_position_embeddings": 131072,
        "rope_parameters": LLAMA3,
        "tie_word_embeddings": True,
    },
    "llama-3.1-8b": {
        **COMMON,
        **_sizes(32, 4096, 14336, 32, 8, 128, 128256),
        "max_position_embeddings": 131072,
        "rope_parameters": {**LLAMA3, "factor": 8.0},
        "tie_word_embeddings": False,
    },
}
SPREAD = 0.02
FIRST = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
TEMPLATE = "{% for message in messages %}{{ message['content'] + '\n' }}{% endfor %}"


def base(folder: Path, name: str) -> Path:
    """Written into `folder`, in bfloat16, by the device that is here."""
    import torch
    from safetensors.torch import save_file

    config = SHAPES[name]
    folder.mkdir(parents=True, exist_ok=True)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    generator = torch.Generator(device).manual_seed(0)
    tensors = {}
    for key, size in weights(config).items():
        drawn = torch.randn(size, generator=generator, device=device) * SPREAD
        tensors[key] = (drawn if len(size) > 1 else drawn + 1).to("cpu", torch.bfloat16)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps(config))
    _write_tokenizer(folder, config["vocab_size"], config["max_position_embeddings"])
    return folder


def chosen(folder: Path | None, name: str | None, stack: ExitStack) -> Path:
    """Random weights in the shape `name`, gone with `stack`; else `folder`; else the demo base."""
    if name is not None:
        return base(Path(stack.enter_context(TemporaryDirectory())), name)
    return folder or base_folder()


def weights(config: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    """The size of every tensor."""
    hidden, between, words = (
        config[name] for name in ("hidden_size", "intermediate_size", "vocab_size")
    )
    q = config["num_attention_heads"] * config["head_dim"]
    kv = config["num_key_value_heads"] * config["head_dim"]
    own = {
        "self_attn.q_proj": (q, hidden),
        "self_attn.k_proj": (kv, hidden),
        "self_attn.v_proj": (kv, hidden),
        "self_attn.o_proj": (hidden, q),
        "mlp.gate_proj": (between, hidden),
        "mlp.up_proj": (between, hidden),
        "mlp.down_proj": (hidden, between),
        "input_layernorm": (hidden,),
        "post_attention_layernorm": (hidden,),
    }
    sizes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (words, hidden)}
    for layer in range(config["num_hidden_layers"]):
        sizes |= {f"model.layers.{layer}.{name}.weight": size for name, size in own.items()}
    sizes["model.norm.weight"] = (hidden,)
    if not config["tie_word_embeddings"]:
        sizes["lm_head.weight"] = (words, hidden)
    return sizes


def _write_tokenizer(folder: Path, words: int, context: int) -> None:
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

    learnt = Tokenizer(models.BPE())
    learnt.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=8000,
        special_tokens=[AddedToken(token, special=True) for token in FIRST],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    lines = (ROOT / "examples" / "support-desk" / "tickets.jsonl").read_text().splitlines()
    learnt.train_from_iterator(lines, trainer)
    told = json.loads(learnt.to_str())
    known = told["model"]["vocab"]
    known |= {f"~{number}": number for number in range(len(known), words)}
    tokenizer = Tokenizer.from_str(json.dumps(told))
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": context,
        "bos_token": FIRST[1],
        "eos_token": FIRST[2],
        "pad_token": FIRST[2],
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    (folder / "chat_template.jinja").write_text(TEMPLATE)
