"""Learning from answers of its own: GRPO and RLOO against plain TRL, PPO against its loss written
out, by every method.

Each method stands here with one of them, LoRA with all; `make test-pairs` computes every pair.
"""

import dataclasses
import math
import os
from pathlib import Path

import pytest

from tests.train.conftest import Records
from tests.train.plain import SHORT, ByHand, curve, plain_rollouts, settings_of
from trimtab.text.chat import ChatFormat
from trimtab.train.methods import METHODS
from trimtab.train.objectives import OBJECTIVES
from trimtab.train.preflight import preflight
from trimtab.train.prepare import prepare
from trimtab.train.start import train

SOME = {
    "grpo": ("lora", "ia3", "prompt", "bottleneck"),
    "rloo": ("lora", "rslora", "prefix", "full"),
    "ppo": ("lora", "dora", "qlora", "prompt", "full"),
}
PAIRS = {
    name: tuple(METHODS) if os.environ.get("TRIMTAB_EVERY_PAIR") else some
    for name, some in SOME.items()
}
# Such that the answers become others within the run.
RATES = {"full": 0.003}


@pytest.mark.parametrize(
    ("objective", "method"), [(name, method) for name in ("grpo", "rloo") for method in PAIRS[name]]
)
def test_learning_from_own_answers_is_that_of_plain_trl(
    base: Path, chat: ChatFormat, records: Records, tmp_path: Path, objective: str, method: str
) -> None:
    """The same draws give the same answers, so the same losses."""
    from trimtab.train.model import quiet

    extra = {"num_generations": 4, "max_completion_length": 8, "beta": 0.05}
    rate = RATES.get(method, 0.01)
    settings = settings_of(objective, learning_rate=rate, batch_size=8, extra=extra, epochs=0.25)
    settings = dataclasses.replace(settings, method=method)
    result = train(base, chat, records, settings, tmp_path / "run", rewards=[SHORT])
    checked = preflight(chat, records, 512, OBJECTIVES[objective])
    ready = prepare(base, settings, checked, records, [SHORT])
    with quiet():
        theirs = plain_rollouts(ready, chat, tmp_path / "plain")
    ours = [point["loss"] for point in curve(result)]
    # In 4 bits the products are summed in another order, which Adam's first steps magnify.
    assert ours == pytest.approx(theirs, abs=5e-4 if METHODS[method].quantised else 1e-4)
    assert len(theirs) == result.steps == 3
    assert any(theirs)


@pytest.mark.parametrize("method", PAIRS["ppo"])
def test_ppo_is_that_written_out_by_hand(
    base: Path, chat: ChatFormat, records: Records, tmp_path: Path, method: str
) -> None:
    """On one batch, before the first step and after it, where it is clipped."""
    from trimtab.train.model import quiet
    from trimtab.train.trainer import build
    from trimtab.train.watch.watch import Watch

    extra = {"num_generations": 4, "max_completion_length": 6, "beta": 0.05, "num_iterations": 2}
    extra["warmup_steps"] = 0
    settings = settings_of("ppo", learning_rate=0.05, batch_size=8, extra=extra, epochs=0.09)
    settings = dataclasses.replace(settings, method=method)
    checked = preflight(chat, records, 512, OBJECTIVES["ppo"])
    ready = prepare(base, settings, checked, records, [SHORT])
    with quiet():
        watch = Watch(ready.step_examples, tmp_path)
        trainer = build(ready, tmp_path, watch)
        by_hand = ByHand(trainer, base)
        trainer.train()
    assert len(by_hand.pairs) == 2
    for ours, wanted in by_hand.pairs:
        assert ours == pytest.approx(wanted, rel=1e-4, abs=1e-5)
    assert by_hand.pairs[0][0] != pytest.approx(by_hand.pairs[1][0], abs=1e-3)


def test_answers_of_its_own_are_rewarded_and_learnt_from(
    base: Path, chat: ChatFormat, records: Records, tmp_path: Path
) -> None:
    extra = {"num_generations": 4, "max_completion_length": 6, "beta": 0.05, "num_iterations": 2}
    settings = settings_of("ppo", learning_rate=0.01, batch_size=8, extra=extra, epochs=0.25)
    result = train(base, chat, records, settings, tmp_path, rewards=[SHORT])
    told = curve(result)
    assert len(told) == result.steps == 6
    assert told[0]["metrics"]["reward"] < 0
    assert (result.files.adapter / "adapter_model.safetensors").is_file()
    assert result.files.probes.is_file()


def test_the_value_head_reads_states_of_any_width(
    base: Path, chat: ChatFormat, records: Records, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is kept in float32, and on a card states are in bfloat16."""
    from trimtab.train.objectives import ppo

    wide = ppo.hidden_states
    monkeypatch.setattr(ppo, "hidden_states", lambda *given: wide(*given).bfloat16())
    extra = {"num_generations": 4, "max_completion_length": 6}
    settings = settings_of("ppo", batch_size=8, extra=extra, epochs=0.09)
    told = curve(train(base, chat, records, settings, tmp_path, rewards=[SHORT]))
    assert [math.isfinite(point["loss"]) for point in told] == [True]
