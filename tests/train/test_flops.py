"""Counted operations against those that torch counts while transformers computes."""

import dataclasses
from pathlib import Path

import pytest
import torch
import torch.nn.functional as functional
from torch.utils.flop_counter import FlopCounterMode

from tests.tiny import build_base
from tests.train.conftest import Records, small_settings
from trimtab.text.chat import ChatFormat
from trimtab.train.flops import StepWork, step_work
from trimtab.train.objectives import objective_of
from trimtab.train.preflight import preflight
from trimtab.train.prepare import prepare

LENGTH = 50


@pytest.fixture(scope="module")
def deep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Deep enough that the first layer, whose input asks for no gradient, weighs little."""
    return build_base(tmp_path_factory.mktemp("deep") / "base", layers=10)


@pytest.mark.parametrize(("method", "off"), [("full", 1e-9), ("lora", 0.04)])
def test_a_frozen_weight_costs_four_and_a_trained_one_six(
    method: str, off: float, deep: Path, chat: ChatFormat, records: Records
) -> None:
    settings = dataclasses.replace(small_settings(), method=method, rank=16)
    model = prepare(deep, settings, preflight(chat, records, 512)).attached.model
    model.train()
    tokens = torch.arange(LENGTH)[None] + 5
    with FlopCounterMode(display=False) as counter:
        logits = model(input_ids=tokens).logits[0]
        functional.cross_entropy(logits, tokens[0]).backward()
    counted = counter.get_flop_counts()["Global"]
    products = (torch.ops.aten.mm, torch.ops.aten.addmm)
    expected = sum(count for op, count in counted.items() if op in products)
    work = step_work(model, reference=False, shares=False)
    assert LENGTH * (work.matrices + work.head) == pytest.approx(expected, rel=off)


def test_a_reference_is_one_more_pass_forward(
    deep: Path, chat: ChatFormat, records: Records
) -> None:
    model = prepare(deep, small_settings(), preflight(chat, records, 512)).attached.model
    plain = step_work(model, reference=False, shares=False)
    held = step_work(model, reference=True, shares=False)
    weights = sum(
        module.in_features * module.out_features
        for module in model.modules()
        if isinstance(module, torch.nn.Linear)
    )
    assert held.matrices + held.head - plain.matrices - plain.head == 2 * weights
    assert (plain.attention, held.attention) == (12 * 10 * 64, 16 * 10 * 64)


def test_pairs_of_tokens_that_see_each_other_count(chat: ChatFormat, records: Records) -> None:
    row = preflight(chat, records, 512).examples[0]
    read = len(row.prompt) + len(row.completion) - 1
    assert StepWork(0, 0, 1, shares=False).of([[row]]) == read * (read + 1) / 2
    assert StepWork(1, 0, 0, shares=False).of([[row]]) == read
    assert StepWork(0, 1, 0, shares=False).of([[row]]) == len(row.completion)


@pytest.mark.parametrize("objective", ["sft", "dpo"])
def test_what_rows_share_counts_once(objective: str, chat: ChatFormat, records: Records) -> None:
    rows = preflight(chat, records, 512, objective_of(objective)).examples[:4]
    whole = StepWork(1, 0, 0, shares=False).of([rows])
    once = StepWork(1, 0, 0, shares=True).of([rows])
    shared = min(len(row.prompt) for row in rows) - 25
    assert once <= whole - 3 * shared
    # Rows of two batches share nothing.
    assert StepWork(1, 0, 0, shares=True).of([[row] for row in rows]) >= once
