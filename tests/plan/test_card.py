"""The planner's arithmetic of a card is the trainer's own, and knows when a card is too small."""

from types import SimpleNamespace

import pytest
import torch
from transformers import LlamaConfig, Qwen3Config

from trimtab.plan import card
from trimtab.plan.card import widest_pass
from trimtab.plan.memory import card_memory
from trimtab.plan.shape import ModelShape
from trimtab.plan.work import Work
from trimtab.train import room

GIB = 2**30
EIGHT = ModelShape(32, 4096, 14336, 32, 1024, 128256, 8_030_261_248, {})


def loaded(kind: type[LlamaConfig] | type[Qwen3Config]) -> SimpleNamespace:
    config = kind(
        hidden_size=4096,
        intermediate_size=14336,
        num_hidden_layers=32,
        num_attention_heads=32,
        num_key_value_heads=8,
        head_dim=128,
    )
    return SimpleNamespace(config=config, dtype=torch.bfloat16)


@pytest.mark.parametrize("kind", [LlamaConfig, Qwen3Config])
def test_plan_and_trainer_count_alike(kind: type[LlamaConfig]) -> None:
    model = loaded(kind)
    assert card.bytes_kept(EIGHT, 2) == room.bytes_kept(model)
    assert card.bytes_checkpointed(EIGHT, 2) == room.bytes_checkpointed(model)
    ours = (card.WIDEST, card.NARROWEST, card.SHARE, card.RESERVED)
    assert ours == (room.WIDEST, room.NARROWEST, room.SHARE, room.RESERVED)


def passing(
    free: int, *, parted: bool = True, width: int = 2, checkpointed: bool = False
) -> card.Pass:
    return widest_pass(
        EIGHT, 50_000, free, width=width, longest=2048, parted=parted, checkpointed=checkpointed
    )


def test_a_pass_fits_what_is_free() -> None:
    wide = passing(400 * GIB)
    assert (wide.tokens, wide.kept) == (card.WIDEST, True)
    tight = passing(40 * GIB)
    assert tight.kept
    assert card.NARROWEST <= tight.tokens < card.WIDEST
    assert tight.bytes <= 40 * GIB
    poor = passing(12 * GIB)
    assert not poor.kept
    assert poor.tokens > tight.tokens
    whole = passing(12 * GIB, parted=False)
    assert (whole.tokens, whole.kept) == (50_000, False)
    assert passing(12 * GIB, width=4).tokens == poor.tokens // 2


def test_the_longest_record_is_in_one_pass_however_small_a_card_is() -> None:
    least = passing(card.RESERVED)
    assert (least.tokens, least.kept) == (2048, False)
    assert least.bytes == 2048 * card.bytes_checkpointed(EIGHT, 2)


def test_a_run_takes_what_there_is_and_no_more(smollm: ModelShape, work: Work) -> None:
    small, large = (card_memory(smollm, work, "lora", "bfloat16", size * GIB) for size in (4, 80))
    assert small.activations <= large.activations
    assert small.total <= 4 * GIB
    assert large.optimizer == 8 * 4_884_480
    assert card_memory(smollm, work, "qlora", "bfloat16", 80 * GIB).weights < large.weights


def test_what_is_asked_to_be_computed_twice_is() -> None:
    found = passing(400 * GIB, checkpointed=True)
    assert (found.tokens, found.kept) == (card.WIDEST, False)
