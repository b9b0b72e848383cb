"""Answers taken in the middle of training: those of a plain greedy search, and without a trace."""

from pathlib import Path

import pytest
import torch

from tests.train.conftest import Records, small_settings
from trimtab.text.chat import ChatFormat
from trimtab.train.display.samples import SHARE, TOKENS, Samples, answers, chosen
from trimtab.train.preflight import preflight
from trimtab.train.prepare import Prepared, prepare
from trimtab.train.trainer import tokenizer_of


@pytest.fixture(scope="module")
def ready(base: Path, chat: ChatFormat, records: Records) -> Prepared:
    return prepare(base, small_settings(), preflight(chat, records, 512), records)


def test_each_answer_is_the_likeliest_token_by_token(ready: Prepared) -> None:
    model, tokenizer = ready.attached.model, tokenizer_of(ready)
    rows = chosen(ready)
    stop = rows[0].completion[-1]
    expected = []
    for row in rows:
        tokens = list(row.prompt)
        while len(tokens) < len(row.prompt) + TOKENS and (
            tokens[-1] != stop or len(tokens) == len(row.prompt)
        ):
            with torch.no_grad():
                tokens.append(int(model(input_ids=torch.tensor([tokens])).logits[0, -1].argmax()))
        said = tokenizer.decode(tokens[len(row.prompt) :], skip_special_tokens=True)
        expected.append(said.strip())
    assert answers(model, tokenizer, rows, [stop]) == expected


def test_asking_leaves_no_trace(ready: Prepared, tmp_path: Path) -> None:
    model = ready.attached.model
    model.train()
    before = torch.get_rng_state()
    samples = Samples(ready, tmp_path / "samples.json")
    samples.take(model, tokenizer_of(ready), 2)
    samples.take(model, tokenizer_of(ready), 4)
    assert torch.equal(before, torch.get_rng_state())
    assert model.training
    assert all(parameter.grad is None for parameter in model.parameters())
    again = Samples(ready, tmp_path / "samples.json")
    again.forget_after(2)
    assert [[step for step, _ in each.answers] for each in again.asked] == [[2]] * 3


def test_they_are_passed_over_where_they_cost_too_much(ready: Prepared, tmp_path: Path) -> None:
    samples = Samples(ready, tmp_path / "samples.json")
    assert samples.due(0.0)
    samples._spent = 1.0
    assert not samples.due(0.9 / SHARE)
    assert samples.due(1.1 / SHARE)
