"""Tiny models of other families, and adapters of every method, made as a trainer makes them."""

import json
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from peft import (
    IA3Config,
    LoraConfig,
    PrefixTuningConfig,
    PromptTuningConfig,
    get_peft_model,
)
from safetensors.torch import load_file
from torch import nn
from transformers import (
    AutoModelForCausalLM,
    BloomConfig,
    Gemma3TextConfig,
    GPT2Config,
    GPTNeoXConfig,
    OPTConfig,
    PhiConfig,
)

from tests.engine.reference import Reference, Said
from tests.sublayers import llama_by_hand
from tests.tiny import build_base
from trimtab import bottleneck

VIRTUAL = 5
HIDDEN = 64
COMMON = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 2}
LAYERS = {"num_hidden_layers": 2, "num_attention_heads": 4, "hidden_size": HIDDEN}


def config_of(family: str, vocabulary: int) -> Any:
    context = {"max_position_embeddings": 256}
    common: Any = {"vocab_size": vocabulary, **COMMON}
    match family:
        case "gpt2":
            return GPT2Config(n_embd=HIDDEN, n_layer=2, n_head=4, n_positions=256, **common)
        case "neox":
            return GPTNeoXConfig(intermediate_size=128, **LAYERS, **context, **common)
        case "opt":
            return OPTConfig(ffn_dim=128, word_embed_proj_dim=HIDDEN, **LAYERS, **context, **common)
        case "phi":
            return PhiConfig(intermediate_size=128, **LAYERS, **context, **common)
        case "bloom":
            return BloomConfig(n_layer=2, n_head=4, hidden_size=HIDDEN, seq_length=256, **common)
        case "gemma3":
            return Gemma3TextConfig(
                intermediate_size=128,
                num_key_value_heads=2,
                head_dim=16,
                sliding_window=8,
                layer_types=["sliding_attention", "full_attention"],
                **LAYERS,
                **context,
                **common,
            )
    raise ValueError(family)


def build_family(folder: Path, family: str) -> Path:
    """A base of another architecture with random weights and the tokenizer of `tests.tiny`."""
    build_base(folder)
    vocabulary = json.loads((folder / "config.json").read_text())["vocab_size"]
    (folder / "model.safetensors").unlink()
    torch.manual_seed(3)
    model = AutoModelForCausalLM.from_config(config_of(family, vocabulary))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 2:
                parameter.normal_(std=0.15)
    model.save_pretrained(folder)
    return folder


def spread(parameters: Sequence[nn.Parameter], seed: int) -> None:
    """Weights far from where training starts, so that an adapter that is ignored is seen."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in parameters:
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.3)


def build_kind(folder: Path, base: Path, kind: str, seed: int = 1) -> Path:
    """An adapter of a method on a base, saved by the library that would have trained it."""
    torch.manual_seed(seed)
    model: Any = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    if kind == "bottleneck":
        attached = bottleneck.attach(model, bottleneck.BottleneckConfig(8, "silu"))
        spread([*attached.parameters()], seed)
        bottleneck.save(attached, folder)
        return folder
    lora: Any = {"r": 4, "lora_alpha": 8, "target_modules": "all-linear"}
    # The linear layers of GPT-2 hold their weights the other way round.
    lora["fan_in_fan_out"] = model.config.model_type == "gpt2"
    configs = {
        "lora": LoraConfig(task_type="CAUSAL_LM", **lora),
        "ia3": IA3Config(task_type="CAUSAL_LM"),
        "prompt_tuning": PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=VIRTUAL),
        "prefix_tuning": PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=VIRTUAL),
    }
    adapted: Any = get_peft_model(model, configs[kind])
    spread([p for p in adapted.parameters() if p.requires_grad], seed)
    adapted.save_pretrained(folder)
    return folder


class KindReference(Reference):
    """As `Reference`, for every method: PEFT's own forward, or a bottleneck's by hand."""

    def __init__(self, base: Path, adapter: Path | None = None) -> None:
        self._forward: Callable[[torch.Tensor], torch.Tensor]
        config = (
            {} if adapter is None else json.loads((adapter / "adapter_config.json").read_text())
        )
        if adapter is not None and config["peft_type"] == "BOTTLENECK":
            super().__init__(base)
            weights = load_file(adapter / "adapter_model.safetensors")
            self._forward = partial(
                llama_by_hand, self._model, weights, activation=config["activation"]
            )
        else:
            super().__init__(base, adapter)
            self._forward = self._plain

    def _plain(self, ids: torch.Tensor) -> torch.Tensor:
        """Logits, (rows, tokens, vocabulary)."""
        with torch.no_grad():
            output = self._model(input_ids=ids, attention_mask=torch.ones_like(ids))
        return output.logits  # type: ignore[no-any-return]

    def score(self, prompt: Sequence[int], completion: Sequence[int]) -> tuple[float, ...]:
        """PEFT answers with logits for its virtual tokens too: counted from the end."""
        ids = torch.tensor([[*prompt, *completion]])
        rows = self._forward(ids)[0].log_softmax(-1)[-len(completion) - 1 : -1]
        return tuple(float(row[token]) for row, token in zip(rows, completion, strict=True))

    def best(self, prompt: Sequence[int]) -> tuple[int, float]:
        """The likeliest next token and its log-probability."""
        row = self._forward(torch.tensor([prompt]))[0, -1].log_softmax(-1)
        return int(row.argmax()), float(row.max())

    def greedy(self, prompt: Sequence[int], count: int, stop: int = -1) -> Said:
        """Token by token, each from a whole forward pass without a cache."""
        said: list[int] = []
        logprobs: list[float] = []
        for _ in range(count):
            token, logprob = self.best((*prompt, *said))
            said.append(token)
            logprobs.append(logprob)
        return Said(tuple(said), tuple(logprobs))
