"""The shared prefix changes the time of a step and nothing else."""

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    LlamaConfig,
    MistralConfig,
    PreTrainedConfig,
    Qwen2Config,
    Qwen3Config,
)
from trl.trainer.utils import add_fused_lm_head

from trimtab.train.loss import IGNORED, SHORTEST, label_logprobs, shared_prefix, shares_prefix

# peft 0.21 asks for the old name of a property of transformers.

SIZES = {
    "vocab_size": 120,
    "hidden_size": 48,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}
ARCHITECTURES = (LlamaConfig, Qwen2Config, Qwen3Config)


def adapted(config: PreTrainedConfig, dropout: float = 0.0) -> PeftModel:
    torch.manual_seed(3)
    base = AutoModelForCausalLM.from_config(config)
    add_fused_lm_head(base)
    model = get_peft_model(base, LoraConfig(r=4, target_modules="all-linear", lora_dropout=dropout))
    assert isinstance(model, PeftModel)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    return model.train()


def batch(prefix: int = 24) -> tuple[Tensor, Tensor, Tensor]:
    """Five rows that begin alike, of lengths of their own: tokens, labels, attention mask."""
    torch.manual_seed(5)
    start = torch.randint(3, 120, (prefix,))
    lengths, width = [9, 14, 20, 11, 17], prefix + 20
    tokens = torch.zeros(5, width, dtype=torch.long)
    labels = torch.full((5, width), IGNORED)
    mask = torch.zeros(5, width, dtype=torch.long)
    for row, length in enumerate(lengths):
        end = prefix + length
        tokens[row, :end] = torch.cat([start, torch.randint(3, 120, (length,))])
        labels[row, end - 6 : end] = tokens[row, end - 6 : end]
        mask[row, :end] = 1
    return tokens, labels, mask


def gradients(model: PeftModel, loss: Tensor) -> dict[str, Tensor]:
    model.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("kind", ARCHITECTURES, ids=lambda kind: kind.model_type)
def test_loss_and_gradients_are_those_of_trl(kind: type[PreTrainedConfig]) -> None:
    model = adapted(kind(**SIZES))
    tokens, labels, mask = batch()
    assert shares_prefix(model)
    assert shared_prefix(tokens, labels) >= 24
    theirs = model(input_ids=tokens, attention_mask=mask, labels=labels, fused_lm_head=True).loss
    expected = gradients(model, theirs)
    ours = -label_logprobs(model, tokens, labels).mean()
    found = gradients(model, ours)
    assert abs((ours - theirs).item()) < 1e-5
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        assert float((found[name] - gradient).norm() / gradient.norm()) < 1e-5, name


def test_rows_that_do_not_begin_alike_are_computed_whole() -> None:
    model = adapted(LlamaConfig(**SIZES))
    tokens, labels, mask = batch(prefix=SHORTEST - 2)
    tokens[:, 0] = torch.arange(5)
    assert shared_prefix(tokens, labels) == 0
    theirs = model(input_ids=tokens, attention_mask=mask, labels=labels, fused_lm_head=True).loss
    assert abs((label_logprobs(model, tokens, labels).mean() + theirs).item()) < 1e-5


def test_a_prefix_ends_before_the_first_label_is_predicted() -> None:
    tokens = torch.ones(3, 40, dtype=torch.long)
    labels = torch.full((3, 40), IGNORED)
    labels[1, 30] = 1
    assert shared_prefix(tokens, labels) == 29


def test_a_single_row_shares_nothing() -> None:
    tokens, labels, _ = batch()
    assert shared_prefix(tokens[:1], labels[:1]) == 0


def test_other_computations_are_left_to_trl() -> None:
    assert not shares_prefix(adapted(LlamaConfig(**SIZES), dropout=0.1))
    assert not shares_prefix(adapted(MistralConfig(**SIZES, sliding_window=16)))
    checkpointed = adapted(LlamaConfig(**SIZES))
    checkpointed.get_base_model().activation_checkpointing_enable()
    assert not shares_prefix(checkpointed)


def test_an_unknown_architecture_is_scored_through_its_own_head() -> None:
    model = adapted(MistralConfig(**SIZES)).eval()
    tokens, labels, mask = batch()
    theirs = model(input_ids=tokens, attention_mask=mask, labels=labels, fused_lm_head=True).loss
    assert abs((label_logprobs(model, tokens, labels).mean() + theirs).item()) < 1e-5
