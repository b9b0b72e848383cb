import dataclasses

import pytest

from trimtab.plan.cost import training_cost, training_operations
from trimtab.plan.machine import Machine
from trimtab.plan.shape import ModelShape
from trimtab.plan.work import Work


def test_operations_of_lora_by_hand(smollm: ModelShape, work: Work) -> None:
    computed = 600 * (125 - 62) + 75 * 62
    matrices = 4 * smollm.linear_parameters + 6 * 4_884_480
    attention = 12 * 30 * 576 * 125
    head = 4 * 49152 * 576 * 21_000
    expected = (matrices + attention) * computed + head
    assert training_operations(smollm, work, "lora") == pytest.approx(expected)


def test_full_fine_tuning_takes_longer(smollm: ModelShape, work: Work, machine: Machine) -> None:
    lora, full = (training_cost(smollm, work, method, machine) for method in ("lora", "full"))
    assert lora.training_s < full.training_s


def test_time_goes_with_epochs_and_rate(smollm: ModelShape, work: Work, machine: Machine) -> None:
    once = training_cost(smollm, work, "lora", machine)
    twice = training_cost(smollm, dataclasses.replace(work, epochs=2), "lora", machine)
    quick = training_cost(smollm, work, "lora", dataclasses.replace(machine, rate=300e9))
    assert twice.training_s == pytest.approx(2 * once.training_s)
    assert quick.training_s == pytest.approx(once.training_s / 2)


def test_price_is_time_at_the_price_of_an_hour(
    smollm: ModelShape, work: Work, machine: Machine
) -> None:
    assert training_cost(smollm, work, "lora", machine).usd == 0
    rented = training_cost(smollm, work, "lora", dataclasses.replace(machine, usd_hour=3.6))
    assert rented.usd == pytest.approx(rented.seconds / 1000)


def test_seconds_are_the_sum_of_their_terms(
    smollm: ModelShape, work: Work, machine: Machine
) -> None:
    cost = training_cost(smollm, work, "lora", machine)
    assert cost.to_json()["seconds"] == cost.start_s + cost.training_s + cost.probes_s


def test_a_pass_without_gradients_is_half_a_frozen_one(smollm: ModelShape, work: Work) -> None:
    work = dataclasses.replace(work, rank=1, targets=["q_proj"])
    read = dataclasses.replace(work, forwards=2)
    once, thrice = (training_operations(smollm, each, "lora") for each in (work, read))
    assert thrice == pytest.approx(2 * once, rel=0.05)


def test_answers_of_its_own_are_written_before_they_are_learnt(
    smollm: ModelShape, work: Work, machine: Machine
) -> None:
    rollouts = dataclasses.replace(work, shared_prefix=0, batch_size=2, rows=4, written=64)
    again = dataclasses.replace(rollouts, iterations=2)
    silent, once, twice = (
        training_cost(smollm, each, "lora", machine)
        for each in (dataclasses.replace(rollouts, written=0), rollouts, again)
    )
    tokens = 600 * 4 * 64
    written = 2 * (smollm.linear_parameters + 49152 * 576) * tokens
    assert once.training_s - silent.training_s == pytest.approx(written / (150e9 * 0.25))
    # They are written once, however often they are learnt from.
    assert twice.training_s - once.training_s == pytest.approx(silent.training_s)
