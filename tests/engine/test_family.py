"""The fast path against transformers over the whole family, each with its own differences."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from tests.engine.paths import FAST, ask, make_path, score
from tests.engine.reference import Reference
from tests.tiny import build_base
from trimtab.engine.continuous.path import ContinuousPath
from trimtab.engine.llama.family import read_shape
from trimtab.inference import Sampling, VersionFiles

SIZES: dict[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 400,
    "max_position_embeddings": 512,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 500000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
FAMILY = {
    "llama": ("llama", {"tie_word_embeddings": True}),
    "llama with biases": ("llama", {"attention_bias": True, "mlp_bias": True}),
    "llama 3.1": ("llama", {"rope_parameters": LLAMA3}),
    "linear rope": (
        "llama",
        {"rope_parameters": {"rope_type": "linear", "rope_theta": 10000.0, "factor": 4.0}},
    ),
    "mistral": ("mistral", {"sliding_window": None, "head_dim": 32}),
    "qwen2": ("qwen2", {}),
    "qwen3": ("qwen3", {"head_dim": 32}),
}
PROMPT = tuple(range(5, 90))
END = (17, 300, 4, 55, 8)


@pytest.mark.parametrize("name", FAMILY)
def test_it_says_what_transformers_says(tmp_path: Path, name: str) -> None:
    kind, more = FAMILY[name]
    base = build_base(tmp_path / "base")
    config = AutoConfig.for_model(kind, **SIZES, **more)
    torch.manual_seed(11)
    model = AutoModelForCausalLM.from_config(config)
    for parameter in model.parameters():
        # Zero biases and norms of one would hide that they were left out.
        parameter.data = torch.randn_like(parameter) * 0.15 + (parameter.ndim == 1)
    model.save_pretrained(base)
    path = make_path(base, FAST)
    assert isinstance(path, ContinuousPath)
    path.load(VersionFiles("v", base, None, base, (2,)))
    reference = Reference(base)
    [answer] = ask(path, "v", [PROMPT], Sampling(max_tokens=8))
    said = reference.greedy(PROMPT, 8)
    assert answer.tokens == said.tokens
    assert answer.logprobs == pytest.approx(said.logprobs, abs=2e-4)
    [found] = score(path, "v", [(PROMPT, END)])
    assert found.logprobs == pytest.approx(reference.score(PROMPT, END), abs=2e-4)


@pytest.mark.parametrize(
    "change",
    [
        {"model_type": "gpt2"},
        {"hidden_act": "gelu"},
        {"model_type": "mistral", "sliding_window": 64},
        {"model_type": "qwen2", "use_sliding_window": True},
        {"rope_parameters": {"rope_type": "yarn", "factor": 4.0}},
        {"quantization_config": {"bits": 4}},
        {"hidden_size": "wide"},
        {"num_attention_heads": 0},
    ],
)
def test_what_it_does_not_compute_goes_the_general_way(
    tmp_path: Path, change: dict[str, Any]
) -> None:
    base = build_base(tmp_path / "base")
    assert read_shape(base) is not None
    file = base / "config.json"
    config = json.loads(file.read_text())
    file.write_text(json.dumps({k: v for k, v in config.items() if k != "head_dim"} | change))
    assert read_shape(base) is None
