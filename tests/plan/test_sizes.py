"""One project file from 135M to 8B: only the base's shape changes, and the plan says what fits."""

import dataclasses

import pytest

from trimtab.plan.candidates import Limits, Plan, make_plan
from trimtab.plan.machine import Machine
from trimtab.plan.shape import ModelShape
from trimtab.plan.work import Work

GIB = 2**30
# Layers, width, inner width, heads, key-value heads, vocabulary, whether the head is the embedding.
SHAPES = {
    "SmolLM2-135M": (30, 576, 1536, 9, 3, 49152, True),
    "Qwen2.5-0.5B": (24, 896, 4864, 14, 2, 151936, True),
    "Llama-3.2-1B": (16, 2048, 8192, 32, 8, 128256, True),
    "Qwen2.5-3B": (36, 2048, 11008, 16, 2, 151936, True),
    "Mistral-7B": (32, 4096, 14336, 32, 8, 32000, False),
    "Llama-3.1-8B": (32, 4096, 14336, 32, 8, 128256, False),
}
PARAMETERS = (0.1345e9, 0.494e9, 1.236e9, 3.086e9, 7.242e9, 8.030e9)


def shape(name: str) -> ModelShape:
    layers, hidden, inner, heads, kv_heads, vocabulary, tied = SHAPES[name]
    values = kv_heads * hidden // heads
    sizes = {
        "self_attn.q_proj": (hidden, hidden),
        "self_attn.k_proj": (values, hidden),
        "self_attn.v_proj": (values, hidden),
        "self_attn.o_proj": (hidden, hidden),
        "mlp.gate_proj": (inner, hidden),
        "mlp.up_proj": (inner, hidden),
        "mlp.down_proj": (hidden, inner),
    }
    linears = {
        f"model.layers.{layer}.{part}": size
        for layer in range(layers)
        for part, size in sizes.items()
    }
    rest = (1 if tied else 2) * vocabulary * hidden
    parameters = rest + sum(rows * columns for rows, columns in linears.values())
    return ModelShape(layers, hidden, inner, heads, values, vocabulary, parameters, linears)


def plan(name: str, work: Work, memory: int) -> Plan:
    card = Machine("card", "cuda", "bfloat16", 16, memory * GIB, rate=4e14, usd_hour=2.0)
    return make_plan(shape(name), work, [card], Limits())


def needed(name: str, work: Work, method: str, memory: int) -> int:
    found = plan(name, work, memory)
    each = [*found.candidates, *(no.candidate for no in found.refused)]
    return next(one.memory.total for one in each if one.method == method)


@pytest.mark.parametrize(("name", "parameters"), [*zip(SHAPES, PARAMETERS, strict=True)])
def test_the_shapes_are_those_of_their_bases(name: str, parameters: float) -> None:
    assert shape(name).parameters == pytest.approx(parameters, rel=1e-3)


@pytest.mark.parametrize("method", ["lora", "qlora", "full"])
def test_a_larger_base_takes_more_memory_and_time(work: Work, method: str) -> None:
    memory = [needed(name, work, method, 640) for name in SHAPES]
    assert memory == sorted(memory)
    seconds = [plan(name, work, 640).choice(method).cost.seconds for name in SHAPES]
    assert seconds == sorted(seconds)


def test_what_fits_a_card_is_what_people_know_to_fit(work: Work) -> None:
    """Full at 1B and LoRA at 8B on 80 GB, QLoRA at 8B on 24 GB; full at 8B on neither."""
    work = dataclasses.replace(work, longest=1024, batch_size=2, accumulation=8)
    for name, method, memory in (
        ("Llama-3.2-1B", "full", 80),
        ("Llama-3.1-8B", "lora", 80),
        ("Llama-3.1-8B", "qlora", 24),
        ("SmolLM2-135M", "full", 24),
    ):
        assert plan(name, work, memory).choice(method).method == method
    for memory in (24, 80):
        refused = {
            no.candidate.method: no.hint for no in plan("Llama-3.1-8B", work, memory).refused
        }
        assert refused["full"].startswith("what fits: train.method: ")
