"""Against blocks that are computed by hand out of transformers' own sublayers."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import (
    AutoModelForCausalLM,
    GPT2Config,
    GPTNeoXConfig,
    LlamaConfig,
    OPTConfig,
    PreTrainedModel,
)

from tests.sublayers import gpt2_by_hand, llama_by_hand
from trimtab.bottleneck import Attached, BottleneckConfig, attach, load, save
from trimtab.errors import BaseError, IdentityError

SIZE, HIDDEN, VOCABULARY, CONTEXT = 4, 16, 50, 64
CONFIGS: dict[str, Any] = {
    "llama": LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=HIDDEN,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=CONTEXT,
    ),
    "gpt2": GPT2Config(
        vocab_size=VOCABULARY, n_embd=HIDDEN, n_layer=2, n_head=2, n_positions=CONTEXT
    ),
    "neox": GPTNeoXConfig(
        vocab_size=VOCABULARY,
        hidden_size=HIDDEN,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=CONTEXT,
    ),
    "opt": OPTConfig(
        vocab_size=VOCABULARY,
        hidden_size=HIDDEN,
        ffn_dim=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=CONTEXT,
        word_embed_proj_dim=HIDDEN,
    ),
}
TOKENS = torch.tensor([[3, 1, 4, 1, 5, 9, 2, 6], [2, 7, 1, 8, 2, 8, 1, 8]])


def model_of(kind: str) -> PreTrainedModel:
    torch.manual_seed(0)
    model: PreTrainedModel = AutoModelForCausalLM.from_config(
        CONFIGS[kind], attn_implementation="eager"
    )
    return model.eval().requires_grad_(False)


def trained(model: PreTrainedModel, config: BottleneckConfig | None = None) -> Attached:
    """An adapter whose weights are all far from zero."""
    attached = attach(model, config or BottleneckConfig(SIZE, "relu"))
    for parameter in attached.parameters():
        nn.init.normal_(parameter, std=0.5)
    return attached


@torch.no_grad()
def logits(model: PreTrainedModel) -> torch.Tensor:
    return model(TOKENS).logits  # type: ignore[no-any-return]


@pytest.mark.parametrize(("kind", "reference"), [("llama", llama_by_hand), ("gpt2", gpt2_by_hand)])
def test_blocks_are_those_of_the_paper(kind: str, reference: Any) -> None:
    model = model_of(kind)
    attached = trained(model)
    found = logits(model)
    with attached.switched(False):
        expected = reference(model, attached.state_dict(), TOKENS)
        assert (found - logits(model)).abs().max() > 0.1
    assert torch.allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("kind", CONFIGS)
def test_new_adapter_changes_nothing_and_learns(kind: str) -> None:
    model = model_of(kind)
    before = logits(model)
    attached = attach(model, BottleneckConfig(SIZE))
    assert torch.equal(logits(model), before)
    # Two sublayers in each of two blocks, with gradients for the adapter alone.
    assert len(attached.modules) == 4
    model(TOKENS, labels=TOKENS).loss.backward()
    learned = {name for name, value in model.named_parameters() if value.grad is not None}
    assert learned == {n for n, _ in model.named_parameters() if ".bottleneck." in n}
    assert all(module.up.weight.grad.abs().max() > 0 for module in attached.modules.values())  # type: ignore[union-attr]


@pytest.mark.parametrize("kind", CONFIGS)
def test_files_give_the_same_adapter_back(kind: str, tmp_path: Path) -> None:
    model, other = model_of(kind), model_of(kind)
    save(trained(model), tmp_path, base="somewhere")
    assert json.loads((tmp_path / "adapter_config.json").read_bytes())["peft_type"] == "BOTTLENECK"
    attached = load(other, tmp_path)
    assert attached.config == BottleneckConfig(SIZE, "relu")
    assert torch.equal(logits(other), logits(model))
    attached.remove()
    assert torch.equal(logits(other), logits(model_of(kind)))
    assert not [name for name, _ in other.named_modules() if "bottleneck" in name]


def test_two_adapters_share_a_base_and_take_turns(tmp_path: Path) -> None:
    model = model_of("llama")
    first = trained(model)
    alone = logits(model)
    second = attach(model, BottleneckConfig(2, "silu", ("mlp",)), name="second")
    for parameter in second.parameters():
        nn.init.normal_(parameter, std=0.5)
    assert not torch.allclose(logits(model), alone)
    with second.switched(False):
        assert torch.equal(logits(model), alone)
    second.remove()
    assert torch.equal(logits(model), alone)
    first.remove()


def test_low_precision_base_keeps_its_dtype() -> None:
    model = model_of("llama").to(torch.bfloat16)
    attached = trained(model)
    assert logits(model).dtype == torch.bfloat16
    assert all(value.dtype == torch.float32 for value in attached.parameters())
    assert all(value.dtype == torch.bfloat16 for value in attached.to(torch.bfloat16).parameters())


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda t: t.pop(next(iter(t))), "attach to nothing or are missing"),
        (lambda t: t.update(stray=torch.ones(1)), "attach to nothing or are missing"),
        (lambda t: t.update({KEY: torch.ones(3, HIDDEN)}), "is of shape"),
        (lambda t: t[KEY].fill_(torch.nan), "holds NaN"),
    ],
)
def test_damaged_files_are_refused_and_leave_no_trace(
    spoil: Any, reason: str, tmp_path: Path
) -> None:
    model = model_of("llama")
    save(trained(model), tmp_path)
    tensors = load_file(tmp_path / "adapter_model.safetensors")
    spoil(tensors)
    save_file(tensors, tmp_path / "adapter_model.safetensors")
    other = model_of("llama")
    before = logits(other)
    with pytest.raises(IdentityError, match=reason):
        load(other, tmp_path)
    assert torch.equal(logits(other), before)


KEY = "model.layers.0.mlp.bottleneck.down.weight"


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"peft_type": "LORA"}, "peft_type"),
        ({"size": 0}, "size"),
        ({"activation": "tanh"}, "activation"),
        ({"places": ["head"]}, "places"),
        ({"places": []}, "places"),
    ],
)
def test_config_is_strict(fields: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        BottleneckConfig.from_dict(BottleneckConfig().to_dict() | fields)


def test_architecture_without_known_sublayers_is_refused() -> None:
    class Flat(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(2, 2)
            self.config = CONFIGS["llama"]

    with pytest.raises(BaseError, match="no attention found"):
        attach(Flat(), BottleneckConfig())
