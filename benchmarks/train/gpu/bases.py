"""Bases of real shapes with random weights, drawn on the card itself: no file is read.

Speed and memory do not depend on what is in a matrix. Shapes are those of the published
`config.json` of each model.
"""

from pathlib import Path
from typing import Any

import torch
from tests.tiny import build_tokenizer
from torch import nn
from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedModel

from trimtab.plan.shape import ModelShape

LLAMA = {"rms_norm_eps": 1e-5, "rope_parameters": {"rope_type": "default", "rope_theta": 5e5}}


def _llama(
    hidden: int, inner: int, layers: int, heads: int, groups: int, words: int, tied: bool
) -> dict[str, Any]:
    return LLAMA | {
        "hidden_size": hidden,
        "intermediate_size": inner,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": groups,
        "vocab_size": words,
        "tie_word_embeddings": tied,
        "max_position_embeddings": 8192,
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 2,
    }


SHAPES = {
    "smollm2-135m": _llama(576, 1536, 30, 9, 3, 49152, tied=True),
    "llama-3.2-1b": _llama(2048, 8192, 16, 32, 8, 128256, tied=True),
    "llama-3-8b": _llama(4096, 14336, 32, 32, 8, 128256, tied=False),
    "llama-3-70b": _llama(8192, 28672, 80, 64, 8, 128256, tied=False),
}
DEVICE = "cuda"


def shape(name: str) -> ModelShape:
    """The sizes as the planner reads them from a folder."""
    size = SHAPES[name]
    hidden, inner, words = size["hidden_size"], size["intermediate_size"], size["vocab_size"]
    narrow = hidden // size["num_attention_heads"] * size["num_key_value_heads"]
    each = {
        "self_attn.q_proj": (hidden, hidden),
        "self_attn.k_proj": (narrow, hidden),
        "self_attn.v_proj": (narrow, hidden),
        "self_attn.o_proj": (hidden, hidden),
        "mlp.gate_proj": (inner, hidden),
        "mlp.up_proj": (inner, hidden),
        "mlp.down_proj": (hidden, inner),
    }
    layers = size["num_hidden_layers"]
    linears = {
        f"model.layers.{layer}.{part}": sizes
        for layer in range(layers)
        for part, sizes in each.items()
    }
    matrices = sum(rows * columns for rows, columns in linears.values())
    tables = (1 if size["tie_word_embeddings"] else 2) * words * hidden
    return ModelShape(
        layers=layers,
        hidden=hidden,
        intermediate=inner,
        heads=size["num_attention_heads"],
        key_values=narrow,
        vocabulary=words,
        parameters=matrices + tables + (2 * layers + 1) * hidden,
        linears=linears,
    )


def drawn(
    name: str, width: torch.dtype = torch.bfloat16, *, quantised: bool = False
) -> PreTrainedModel:
    """The model on the card; `quantised` has its layers' matrices in nf4, quantised twice."""
    torch.manual_seed(17)
    config = LlamaConfig(**SHAPES[name])
    if quantised:
        return _in_four_bits(config)
    with torch.device(DEVICE):
        model: PreTrainedModel = AutoModelForCausalLM.from_config(config, dtype=width)
    return model


def _in_four_bits(config: LlamaConfig) -> PreTrainedModel:
    """Each layer is drawn in bfloat16 and quantised before the next, so that one is whole at a
    time; then the model is what transformers makes of a folder.
    """
    from transformers.models.llama.modeling_llama import LlamaDecoderLayer

    layers, config.num_hidden_layers = config.num_hidden_layers, 1
    with torch.device(DEVICE):
        model: Any = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
        config.num_hidden_layers = model.config.num_hidden_layers = layers
        stack = nn.ModuleList()
        torch.set_default_dtype(torch.bfloat16)
        try:
            for index in range(layers):
                layer = LlamaDecoderLayer(config, index)
                _quantise(layer)
                stack.append(layer)
        finally:
            torch.set_default_dtype(torch.float32)
    model.model.layers = stack
    model.requires_grad_(False)
    # What transformers notes of a model that it has quantised, and PEFT and accelerate ask for.
    model.is_loaded_in_4bit = True
    model.hf_device_map = {"": 0}
    quantised: PreTrainedModel = model
    return quantised


def _quantise(layer: nn.Module) -> None:
    from bitsandbytes.nn import Linear4bit, Params4bit

    for part in (layer.self_attn, layer.mlp):
        for name, linear in list(part.named_children()):
            if type(linear) is not nn.Linear:
                continue
            nn.init.normal_(linear.weight, std=0.02)
            narrow = Linear4bit(
                linear.in_features,
                linear.out_features,
                bias=False,
                compute_dtype=torch.bfloat16,
                compress_statistics=True,
                quant_type="nf4",
                device="meta",
            )
            narrow.weight = Params4bit(
                linear.weight.data,
                requires_grad=False,
                compress_statistics=True,
                quant_type="nf4",
                module=narrow,
            ).to(DEVICE)
            setattr(part, name, narrow)


def folder(path: Path) -> Path:
    """A tokenizer, for what asks for one; nothing is tokenised."""
    return build_tokenizer(path)
