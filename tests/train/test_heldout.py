"""Records held out of training: chosen by the seed, looked at without a trace, ending the run."""

import dataclasses
import json
from pathlib import Path

import pytest
import torch

from tests.train.conftest import Records, small_settings
from trimtab.errors import DataError, ProjectError
from trimtab.text.chat import ChatFormat
from trimtab.train.heldout import hold_out
from trimtab.train.objectives import objective_of
from trimtab.train.preflight import preflight
from trimtab.train.run import RunResult
from trimtab.train.settings import TrainSettings
from trimtab.train.start import train


def test_the_seed_holds_whole_records_out(chat: ChatFormat, records: Records) -> None:
    checked = preflight(chat, records, 512, objective_of("kto"))
    kept, held = hold_out(checked, 0.25, seed=3)
    assert hold_out(checked, 0.25, seed=3) == (kept, held)
    assert hold_out(checked, 0.25, seed=4)[1] != held
    out = {row.record for row in held}
    assert len(out) == 6
    # Both answers of a record lie on one side.
    assert len(held) == 2 * len(out)
    assert out.isdisjoint(row.record for row in kept.examples)
    assert {*kept.examples, *held} == {*checked.examples}


def test_too_few_records_are_refused(chat: ChatFormat, records: Records) -> None:
    checked = preflight(chat, records[:3], 512)
    with pytest.raises(DataError, match="3 training records are too few to hold 2 of them out"):
        hold_out(checked, 0.05, seed=1)


@pytest.fixture(scope="module")
def early(
    base: Path, chat: ChatFormat, records: Records, tmp_path_factory: pytest.TempPathFactory
) -> RunResult:
    """A rate far too high: what is held out gets worse while the records are learnt by heart."""
    settings = TrainSettings(
        rank=8,
        batch_size=4,
        learning_rate=0.05,
        epochs=8,
        validation=0.2,
        patience=2,
        extra={"save_steps": 1},
    )
    return train(base, chat, records, settings, tmp_path_factory.mktemp("early"))


def test_it_ends_where_held_out_loss_no_longer_falls(early: RunResult) -> None:
    curve = json.loads(early.files.curve.read_bytes())
    losses = [point["held_out"] for point in curve]
    best = min(range(len(losses)), key=lambda at: losses[at])
    assert early.stopped == "early"
    assert early.steps == len(curve) == best + 1 + 2 < early.planned_steps
    assert (early.best_step, early.held_out) == (best + 1, losses[best])


def test_what_it_leaves_is_the_best_step(
    early: RunResult, base: Path, chat: ChatFormat, records: Records
) -> None:
    """Plain PEFT over the held-out tokens gives the loss that the run reports."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    plain = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    model = PeftModel.from_pretrained(plain, str(early.files.adapter)).eval()
    _, held = hold_out(preflight(chat, records, 512), 0.2, seed=17)
    total = count = 0.0
    for row in held:
        tokens = torch.tensor([row.prompt + row.completion])
        with torch.inference_mode():
            table = torch.log_softmax(model(input_ids=tokens).logits[0], dim=-1)
        taken = table[len(row.prompt) - 1 : -1].gather(1, tokens[0, len(row.prompt) :, None])
        total -= float(taken.sum())
        count += len(row.completion)
    assert early.held_out == pytest.approx(total / count, rel=1e-4)


@pytest.mark.parametrize("objective", ["dpo", "kto", "orpo", "reward"])
def test_looking_changes_nothing_and_every_objective_can(
    objective: str, base: Path, chat: ChatFormat, records: Records, tmp_path: Path
) -> None:
    settings = dataclasses.replace(
        small_settings(), objective=objective, epochs=0.2, dropout=0.1, validation=0.2
    )
    seldom = dataclasses.replace(settings, extra={"save_steps": 50})
    often = dataclasses.replace(settings, extra={"save_steps": 1})
    once = train(base, chat, records, seldom, tmp_path / "seldom")
    each = train(base, chat, records, often, tmp_path / "often")
    weights = [
        (run.files.adapter / "adapter_model.safetensors").read_bytes() for run in (once, each)
    ]
    assert weights[0] == weights[1]
    assert each.held_out == once.held_out
    assert each.best_step == each.steps


def test_answers_of_its_own_have_no_held_out_loss(
    base: Path, chat: ChatFormat, records: Records, tmp_path: Path
) -> None:
    settings = dataclasses.replace(small_settings(), objective="grpo", validation=0.2)
    with pytest.raises(ProjectError, match="grpo learns from its own answers"):
        train(base, chat, records, settings, tmp_path)
