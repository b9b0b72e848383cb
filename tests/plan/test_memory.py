import dataclasses

import pytest

from trimtab.plan.memory import saved_elements, training_memory
from trimtab.plan.shape import ModelShape
from trimtab.plan.work import Work


def test_terms_add_up(smollm: ModelShape, work: Work) -> None:
    memory = training_memory(smollm, work, "lora", "float32")
    told = memory.to_json()
    assert told.pop("total") == sum(told.values())
    assert memory.weights == 4 * smollm.parameters
    assert memory.optimizer == 8 * 4_884_480


def test_methods_are_ordered_as_they_should_be(smollm: ModelShape, work: Work) -> None:
    lora, dora, full = (
        training_memory(smollm, work, method, "bfloat16").total
        for method in ("lora", "dora", "full")
    )
    assert lora < dora < full


def test_full_fine_tuning_costs_sixteen_bytes_a_parameter(smollm: ModelShape, work: Work) -> None:
    memory = training_memory(smollm, work, "full", "float32")
    per_parameter = memory.weights + memory.trained + memory.gradients + memory.optimizer
    assert per_parameter == 16 * smollm.parameters


@pytest.mark.parametrize("field", ["batch_size", "longest", "rank"])
def test_more_work_needs_more_memory(smollm: ModelShape, work: Work, field: str) -> None:
    more = dataclasses.replace(work, **{field: 2 * getattr(work, field)})
    small, large = (training_memory(smollm, w, "lora", "float32") for w in (work, more))
    assert small.total < large.total


@pytest.mark.parametrize(("hidden", "inner", "rank"), [(96, 256, 8), (128, 192, 16)])
def test_what_a_layer_saves_is_what_autograd_saves(hidden: int, inner: int, rank: int) -> None:
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=64,
        hidden_size=hidden,
        intermediate_size=inner,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
    )
    model = get_peft_model(
        LlamaForCausalLM(config), LoraConfig(r=rank, target_modules="all-linear")
    )
    own = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    saved: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        saved[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    tokens = torch.randint(0, 64, (3, 50))
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        model.get_base_model().base_model(input_ids=tokens, use_cache=False)
    measured = sum(size for pointer, size in saved.items() if pointer not in own)
    shape = ModelShape(4, hidden, inner, 4, hidden // 2, 64, 0, {})
    predicted = 4 * saved_elements(shape, rank) * shape.layers * tokens.numel()
    assert measured == pytest.approx(predicted, rel=0.1)


def test_four_bits_take_half_a_byte_and_the_full_weights_once_more(
    smollm: ModelShape, work: Work
) -> None:
    lora, qlora = (training_memory(smollm, work, name, "bfloat16") for name in ("lora", "qlora"))
    rest = smollm.parameters - smollm.linear_parameters
    assert qlora.weights == round(4.127 / 8 * smollm.linear_parameters + 2 * rest)
    assert lora.served == 0
    step = qlora.activations + qlora.logits
    assert qlora.served == max(0, 2 * smollm.parameters - step)


def test_a_pair_is_two_rows_and_a_reference_a_second_base(smollm: ModelShape, work: Work) -> None:
    work = dataclasses.replace(work, shared_prefix=0)
    pairs = dataclasses.replace(work, rows=2, reference=True)
    alone, paired = (training_memory(smollm, each, "full", "float32") for each in (work, pairs))
    assert paired.activations == 2 * alone.activations
    assert paired.weights == 4 * smollm.parameters
    # An adapter is switched off instead.
    assert training_memory(smollm, pairs, "lora", "float32").weights == 4 * smollm.parameters


def test_virtual_tokens_stand_before_every_row(smollm: ModelShape, work: Work) -> None:
    prompt = work.by("prompt")
    assert (prompt.longest, prompt.shared_prefix) == (work.longest + work.rank, 0)
    assert prompt.tokens == work.tokens + work.rank * work.records
    assert work.by("prefix").tokens == work.tokens
    assert work.by("lora") == work
