"""How much is computed at a time: a fixed part on a CPU, on a card what its free memory holds."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import LlamaConfig

from trimtab.train import room
from trimtab.train.room import bytes_checkpointed, bytes_kept, keeps, part_size


def model(device: str, checkpointed: bool = False) -> Any:
    return SimpleNamespace(
        config=LlamaConfig(),
        device=torch.device(device),
        dtype=torch.bfloat16,
        is_activation_checkpointing=checkpointed,
    )


def test_a_cpu_keeps_parts_of_one_size() -> None:
    assert part_size(model("cpu")) == room.PART
    assert keeps(model("cpu"), 10**9)
    assert not keeps(model("cpu", checkpointed=True), 1)


@pytest.mark.parametrize(
    ("tokens", "part", "kept"),
    [(10**6, room.WIDEST, True), (5000, 5000, True), (3000, room.WIDEST, False)],
)
def test_a_card_keeps_what_fits_and_else_computes_twice(
    monkeypatch: pytest.MonkeyPatch, tokens: int, part: int, kept: bool
) -> None:
    card = model("cuda")
    monkeypatch.setattr(room, "_free", lambda: tokens * bytes_kept(card))
    assert part_size(card) == part
    assert keeps(card, part) == kept


def test_a_card_that_has_been_told_to_compute_twice_does(monkeypatch: pytest.MonkeyPatch) -> None:
    card = model("cuda", checkpointed=True)
    monkeypatch.setattr(room, "_free", lambda: 8000 * bytes_checkpointed(card))
    assert part_size(card) == 8000
    assert not keeps(card, 1)


def test_a_card_without_bfloat16_holds_half_as_many(monkeypatch: pytest.MonkeyPatch) -> None:
    narrow, wide = model("cuda"), model("cuda")
    wide.dtype = torch.float32
    assert bytes_kept(wide) == 2 * bytes_kept(narrow)
    assert bytes_checkpointed(wide) == 2 * bytes_checkpointed(narrow)
    monkeypatch.setattr(torch, "is_autocast_enabled", lambda device: device == "cuda")
    assert bytes_kept(wide) == bytes_kept(narrow)


def test_what_torch_holds_and_does_not_use_is_free(monkeypatch: pytest.MonkeyPatch) -> None:
    gib = 2**30
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda: 30 * gib)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda: 20 * gib)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (40 * gib, 80 * gib))
    assert room._free() == int(room.SHARE * 48 * gib)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (0, 80 * gib))
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda: 30 * gib)
    assert room._free() == 0
    assert part_size(model("cuda")) == 1
