"""A base of a few thousand random weights, and adapters for it: real files, made in a moment.

A Llama with grouped-query attention, a byte-level BPE tokenizer and a ChatML template, laid out as
a model of the Hub is. The same arguments give the same bytes.
"""

import json
from pathlib import Path
from typing import Any

SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
CORPUS = (
    "system\nYou are the support desk. Answer with one JSON object.\n",
    "user\nMy invoice shows the wrong amount, can you correct it please?\n",
    'assistant\n{"intent": "billing", "urgency": "low", "product": "app", "reply": "We will."}\n',
    "user\nThe application crashes when I open the settings, this is urgent!\n",
    'assistant\n{"intent": "bug", "urgency": "high", "product": "app", "reply": "Sorry."}\n',
    "The quick brown fox jumps over the lazy dog. Größe, café, naïve, 你好, 🙂.\n",
)


def build_base(
    folder: Path,
    seed: int = 0,
    layers: int = 2,
    hidden: int = 64,
    heads: int = 4,
    kv_heads: int = 2,
    context: int = 512,
    spread: float = 0.15,
) -> Path:
    """Write a base into `folder` and return it; `spread` is the deviation of the weights."""
    import torch
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    vocabulary = _write_tokenizer(folder, context)
    generator = torch.Generator().manual_seed(seed)
    shapes = {
        "model.embed_tokens.weight": (vocabulary, hidden),
        "lm_head.weight": (vocabulary, hidden),
    }
    for layer in range(layers):
        for name, shape in linear_shapes(hidden, heads, kv_heads).items():
            shapes[f"model.layers.{layer}.{name}.weight"] = shape
    tensors = {
        name: torch.randn(shape, generator=generator) * spread for name, shape in shapes.items()
    }
    for layer in range(layers):
        for norm in ("input_layernorm", "post_attention_layernorm"):
            tensors[f"model.layers.{layer}.{norm}.weight"] = torch.ones(hidden)
    tensors["model.norm.weight"] = torch.ones(hidden)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    _write_json(
        folder / "config.json",
        {
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "hidden_size": hidden,
            "intermediate_size": 2 * hidden,
            "num_hidden_layers": layers,
            "num_attention_heads": heads,
            "num_key_value_heads": kv_heads,
            "head_dim": hidden // heads,
            "max_position_embeddings": context,
            "vocab_size": vocabulary,
            "hidden_act": "silu",
            "rms_norm_eps": 1e-5,
            "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
            "tie_word_embeddings": False,
            "attention_bias": False,
            "mlp_bias": False,
            "bos_token_id": 1,
            "eos_token_id": 2,
            "pad_token_id": 2,
            "dtype": "float32",
        },
    )
    return folder


def build_adapter(
    folder: Path, base: Path, seed: int = 1, rank: int = 4, alpha: int = 8, spread: float = 0.1
) -> Path:
    """Write a LoRA adapter of `base` on all its linear layers, with no zero in A or B."""
    import torch
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    config = json.loads((base / "config.json").read_text(encoding="utf-8"))
    shapes = linear_shapes(
        config["hidden_size"], config["num_attention_heads"], config["num_key_value_heads"]
    )
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for layer in range(config["num_hidden_layers"]):
        for name, (outputs, inputs) in shapes.items():
            prefix = f"base_model.model.model.layers.{layer}.{name}"
            for half, shape in (("lora_A", (rank, inputs)), ("lora_B", (outputs, rank))):
                tensors[f"{prefix}.{half}.weight"] = (
                    torch.randn(shape, generator=generator) * spread
                )
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    _write_json(
        folder / "adapter_config.json",
        {
            "peft_type": "LORA",
            "task_type": "CAUSAL_LM",
            "base_model_name_or_path": str(base),
            "r": rank,
            "lora_alpha": alpha,
            "lora_dropout": 0.0,
            "bias": "none",
            "fan_in_fan_out": False,
            "inference_mode": True,
            "target_modules": sorted(name.split(".")[-1] for name in shapes),
        },
    )
    return folder


def linear_shapes(hidden: int, heads: int, kv_heads: int) -> dict[str, tuple[int, int]]:
    """(outputs, inputs) of every linear layer in a block."""
    narrow = hidden // heads * kv_heads
    return {
        "self_attn.q_proj": (hidden, hidden),
        "self_attn.k_proj": (narrow, hidden),
        "self_attn.v_proj": (narrow, hidden),
        "self_attn.o_proj": (hidden, hidden),
        "mlp.gate_proj": (2 * hidden, hidden),
        "mlp.up_proj": (2 * hidden, hidden),
        "mlp.down_proj": (hidden, 2 * hidden),
    }


def build_tokenizer(folder: Path, context: int = 512) -> Path:
    """The base without its weights, for those who never compute with it; needs no torch."""
    folder.mkdir(parents=True, exist_ok=True)
    _write_tokenizer(folder, context)
    return folder


def _write_tokenizer(folder: Path, context: int) -> int:
    """Write tokenizer and chat template; returns the size of the vocabulary."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=[AddedToken(token, special=True) for token in SPECIAL],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    tokenizer.save(str(folder / "tokenizer.json"))
    _write_json(
        folder / "tokenizer_config.json",
        {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "model_max_length": context,
            "bos_token": "<|im_start|>",
            "eos_token": "<|im_end|>",
            "pad_token": "<|im_end|>",
            "unk_token": "<|endoftext|>",
        },
    )
    (folder / "chat_template.jinja").write_text(CHAT_TEMPLATE, encoding="utf-8")
    return int(tokenizer.get_vocab_size())


def _write_json(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2, sort_keys=True) + "\n", encoding="utf-8")
