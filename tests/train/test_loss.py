"""The fast path gives the loss and the gradients of plain transformers and PEFT.

The measure is ||ours - theirs|| / ||theirs||, tensor by tensor, in float32; 1e-5 is allowed, a
hundred times the rounding of one product.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from bitsandbytes.nn import Linear4bit
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    LlamaConfig,
    MistralConfig,
    PreTrainedConfig,
    PreTrainedModel,
    Qwen2Config,
    Qwen3Config,
)
from trl.trainer.utils import add_fused_lm_head

from trimtab.train.methods.qlora import quantisation
from trimtab.train.model import adapt
from trimtab.train.room import keeps
from trimtab.train.settings import TrainSettings
from trimtab.train.stream.fused import answer_fast
from trimtab.train.stream.loss import label_logprobs, parts, stream_of
from trimtab.train.stream.scoring import score_fast, scores
from trimtab.train.stream.stream import IGNORED
from trimtab.train.stream.walk import Model, walkable

ALLOWED = 1e-5
SIZES = {
    "vocab_size": 120,
    "hidden_size": 48,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "initializer_range": 0.15,
}
QUICKSTART = ["q_proj", "k_proj", "v_proj", "o_proj"]


def based(kind: type[PreTrainedConfig] = LlamaConfig, **more: Any) -> PreTrainedModel:
    torch.manual_seed(3)
    made: PreTrainedModel = AutoModelForCausalLM.from_config(kind(**SIZES, **more))
    for name, parameter in made.named_parameters():
        if "norm" in name or "bias" in name:
            torch.nn.init.normal_(parameter, mean=0.8, std=0.2)
    return made


def adapted(base: PreTrainedModel, **more: Any) -> PeftModel:
    asked = {"r": 4, "target_modules": "all-linear", "lora_dropout": 0.0} | more
    model = get_peft_model(base, LoraConfig(**asked))
    assert isinstance(model, PeftModel)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    return model.train()


def batch(
    beginning: int = 24, lengths: tuple[int, ...] = (9, 14, 20, 11, 17)
) -> tuple[Tensor, Tensor, Tensor]:
    """Rows that begin alike, of lengths of their own: tokens, labels, attention mask."""
    torch.manual_seed(5)
    start = torch.randint(3, 120, (beginning,))
    shape = len(lengths), beginning + max(lengths)
    tokens, labels = torch.zeros(shape, dtype=torch.long), torch.full(shape, IGNORED)
    mask = torch.zeros(shape, dtype=torch.long)
    for row, length in enumerate(lengths):
        end = beginning + length
        tokens[row, :end] = torch.cat([start, torch.randint(3, 120, (length,))])
        labels[row, end - 6 : end] = tokens[row, end - 6 : end]
        mask[row, :end] = 1
    return tokens, labels, mask


def gradients(model: Model, loss: Tensor) -> dict[str, Tensor]:
    model.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def same(model: Model, tokens: Tensor, labels: Tensor, mask: Tensor) -> None:
    """Hold our loss and gradients to those of transformers and PEFT."""
    model.config.use_cache = False
    torch.manual_seed(1)
    theirs = model(input_ids=tokens, attention_mask=mask, labels=labels).loss
    expected = gradients(model, theirs)
    torch.manual_seed(1)
    ours = -label_logprobs(model, tokens, labels).mean()
    found = gradients(model, ours)
    close(ours, theirs, found, expected)


def close(
    ours: Tensor, theirs: Tensor, found: dict[str, Tensor], expected: dict[str, Tensor]
) -> None:
    assert abs((ours - theirs).item()) < ALLOWED
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        assert float((found[name] - gradient).norm() / gradient.norm()) < ALLOWED, name


METHODS: dict[str, dict[str, Any]] = {
    "lora": {},
    "rslora": {"use_rslora": True},
    "dora": {"use_dora": True},
    "quickstart": {"target_modules": QUICKSTART, "r": 16, "lora_alpha": 32},
}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("beginning", [24, 0], ids=["shared", "apart"])
def test_adapters_learn_what_peft_makes_them_learn(method: str, beginning: int) -> None:
    model = adapted(based(), **METHODS[method])
    tokens, labels, mask = batch(beginning)
    assert walkable(model)
    computed = len(stream_of(model, tokens, labels).tokens)
    assert computed < int(mask.sum()) - 4 * beginning
    same(model, tokens, labels, mask)


def test_a_turn_that_dialogues_share_is_learnt_once_for_each() -> None:
    model = adapted(based())
    tokens, labels, mask = batch(24)
    labels[:, 6:11] = tokens[:, 6:11]
    assert len(stream_of(model, tokens, labels).tokens) < int(mask.sum()) - 4 * 24
    same(model, tokens, labels, mask)


@pytest.mark.parametrize("more", [{}, {"target_modules": QUICKSTART}], ids=["all", "quickstart"])
def test_a_base_in_four_bits_is_multiplied_as_bitsandbytes_would(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, more: dict[str, Any]
) -> None:
    based().save_pretrained(tmp_path)
    narrow: PreTrainedModel = AutoModelForCausalLM.from_pretrained(
        tmp_path, quantization_config=quantisation(torch.float32), device_map="cpu"
    )
    model = adapted(narrow, **more)
    tokens, labels, mask = batch()
    assert walkable(model)
    theirs = model(input_ids=tokens, attention_mask=mask, labels=labels, use_cache=False).loss
    expected = gradients(model, theirs)
    # Neither a matrix nor its pair is computed by its own module.
    monkeypatch.setattr(Linear4bit, "forward", None)
    ours = -label_logprobs(model, tokens, labels).mean()
    close(ours, theirs, gradients(model, ours), expected)


@pytest.mark.parametrize("kind", [LlamaConfig, Qwen2Config, Qwen3Config])
def test_every_architecture_is_walked_as_it_is(kind: type[PreTrainedConfig]) -> None:
    model = adapted(based(kind))
    assert walkable(model)
    same(model, *batch())


def test_a_window_that_no_row_leaves_is_none() -> None:
    tokens, labels, mask = batch()
    base = based(MistralConfig, sliding_window=tokens.shape[1])
    settings = TrainSettings(max_length=tokens.shape[1], rank=4, targets=("q_proj", "v_proj"))
    model = adapt(base, Path(), settings).model.train()
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    assert walkable(model)
    same(model, tokens, labels, mask)
    # Answers of its own may be longer than a record, and so may one behind another's prompt.
    for other in ({"max_length": tokens.shape[1] + 1}, {"objective": "grpo"}, {"objective": "kto"}):
        wide = based(MistralConfig, sliding_window=tokens.shape[1])
        assert not walkable(adapt(wide, Path(), replace(settings, **other)).model)


def test_full_fine_tuning_has_the_same_gradient_for_every_weight() -> None:
    model = based(Qwen3Config, tie_word_embeddings=True).train()
    assert walkable(model)
    same(model, *batch())


def test_one_seed_drops_the_same_inputs() -> None:
    # One row of which every token is a label: the masks have the same shape and are drawn in the
    # same order. Of other batches they are other draws of the same law, for padding and what
    # predicts no label take draws too.
    model = adapted(based(), lora_dropout=0.2)
    tokens, _, _ = batch(0, (30,))
    torch.manual_seed(1)
    logits = model(input_ids=tokens[:, :-1], use_cache=False).logits[0]
    theirs = torch.nn.functional.cross_entropy(logits, tokens[0, 1:])
    expected = gradients(model, theirs)
    torch.manual_seed(1)
    ours = -label_logprobs(model, tokens, tokens).mean()
    close(ours, theirs, gradients(model, ours), expected)


def test_with_dropout_no_row_shares_its_draw() -> None:
    model = adapted(based(), lora_dropout=0.2)
    tokens, labels, mask = batch()
    assert len(stream_of(model, tokens, labels).tokens) == int(mask.sum()) - len(mask)
    model.eval()
    assert len(stream_of(model, tokens, labels).tokens) < int(mask.sum()) - len(mask)


def test_without_its_adapter_the_base_answers() -> None:
    model = adapted(based())
    tokens, labels, mask = batch()
    with model.disable_adapter(), torch.no_grad():
        theirs = model(input_ids=tokens, attention_mask=mask, labels=labels).loss
        ours = -label_logprobs(model, tokens, labels).mean()
    assert abs((ours - theirs).item()) < ALLOWED


def test_parts_of_a_batch_make_up_the_whole() -> None:
    model = adapted(based())
    tokens, labels, mask = batch()
    rows = [row[: int(seen.sum())] for row, seen in zip(tokens.tolist(), mask, strict=True)]
    cut = list(parts(rows, limit=60))
    assert len(cut) > 1
    assert sorted(row for part in cut for row in part) == list(range(5))
    whole = gradients(model, -label_logprobs(model, tokens, labels).sum())
    summed: dict[str, Tensor] = {}
    for part in cut:
        loss = -label_logprobs(model, tokens[part], labels[part]).sum()
        for name, gradient in gradients(model, loss).items():
            summed[name] = summed.get(name, torch.zeros(())) + gradient
    for name, gradient in whole.items():
        assert float((summed[name] - gradient).norm() / gradient.norm()) < ALLOWED, name


def test_checkpointed_activations_change_no_gradient() -> None:
    base = based()
    base.activation_checkpointing_enable()
    model = adapted(base, lora_dropout=0.2)
    tokens, labels, _ = batch()
    assert walkable(model)
    assert not keeps(base, 1)
    torch.manual_seed(1)
    again = gradients(model, -label_logprobs(model, tokens, labels).mean())
    base.activation_checkpointing_disable()
    assert keeps(base, 1)
    torch.manual_seed(1)
    kept = gradients(model, -label_logprobs(model, tokens, labels).mean())
    assert kept.keys() == again.keys()
    for name, gradient in kept.items():
        assert torch.equal(gradient, again[name]), name


def test_what_is_not_walked_is_left_to_transformers() -> None:
    assert not walkable(adapted(based(MistralConfig)))
    assert not walkable(adapted(based(Qwen2Config, use_sliding_window=True, max_window_layers=0)))
    assert not walkable(adapted(based(attention_dropout=0.1)))
    hooked = based()
    hooked.base_model.layers[1].mlp.register_forward_hook(lambda *_: None)
    assert not walkable(hooked)


@pytest.mark.parametrize("side", ["left", "right"])
def test_trl_is_given_what_its_own_head_gives(side: str) -> None:
    base = based()
    add_fused_lm_head(base, outputs=("log_probs", "entropy", "mean_logits", "is_top1"))
    model = adapted(base)
    tokens, labels, mask = batch()
    if side == "left":
        tokens, labels, mask = (
            torch.stack(
                [row.roll(int((1 - seen).sum())) for row, seen in zip(x, mask, strict=True)]
            )
            for x in (tokens, labels, mask)
        )
    asked = {"input_ids": tokens, "attention_mask": mask, "labels": labels, "fused_lm_head": True}
    theirs = model(**asked)
    expected = gradients(model, theirs.log_probs.pow(2).sum())
    answer_fast(model)
    ours = model(**asked)
    found = gradients(model, ours.log_probs.pow(2).sum())
    close(ours.loss, theirs.loss, found, expected)
    assert torch.equal(ours.label_mask, theirs.label_mask)
    assert torch.equal(ours.is_top1.bool(), theirs.is_top1.bool())
    for name in ("log_probs", "entropy", "mean_logits"):
        torch.testing.assert_close(ours[name], theirs[name], atol=1e-4, rtol=1e-4)


def test_an_unknown_architecture_is_scored_through_its_own_head() -> None:
    same(adapted(based(MistralConfig)), *batch())


@pytest.mark.parametrize("kind", [LlamaConfig, Qwen3Config])
def test_scores_are_those_of_transformers(kind: type[PreTrainedConfig]) -> None:
    torch.manual_seed(3)
    base: PreTrainedModel = AutoModelForSequenceClassification.from_config(
        kind(**SIZES, num_labels=1, pad_token_id=0)
    )
    model = adapted(base, task_type="SEQ_CLS")
    tokens, _, mask = batch()
    # One that ends in what pads, as an end of turn does where it is both.
    tokens[0, int(mask[0].sum()) - 1] = 0
    asked = {"input_ids": tokens, "attention_mask": mask, "use_cache": False}
    theirs = model(**asked).logits
    expected = gradients(model, theirs.pow(2).sum())
    assert walkable(model)
    score_fast(model)
    ours = model(**asked).logits
    rows = [row[: int(seen.sum())].tolist() for row, seen in zip(tokens, mask, strict=True)]
    assert torch.equal(ours, scores(model, rows))
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)
    found = gradients(model, ours.pow(2).sum())
    assert any("score" in name for name in found)
    close(ours.sum(), theirs.sum(), found, expected)
