"""The launcher is chosen by devices and memory, and says why."""

import dataclasses

import pytest

from trimtab.plan.candidates import Limits, make_plan
from trimtab.plan.machine import Machine
from trimtab.plan.memory import Memory
from trimtab.plan.shape import ModelShape
from trimtab.plan.spread import ALONE, Spread, choose, held
from trimtab.plan.work import Work

GIB = 2**30
ALL = ("none", "fsdp", "zero2", "zero3")
CARDS = Machine("this machine", "cuda", "bfloat16", 16, 80 * GIB, 4e14, devices=4)
# Full fine-tuning of eight thousand million numbers: states of 16 bytes each.
FULL_8B = Memory(GIB // 2, 0, 32 * GIB, 32 * GIB, 64 * GIB, 16 * GIB, 4 * GIB)
LORA_8B = Memory(GIB // 2, 16 * GIB, GIB // 4, GIB // 4, GIB // 2, 16 * GIB, 4 * GIB)


def cards(count: int) -> Machine:
    return dataclasses.replace(CARDS, devices=count)


def test_one_device_that_fits_is_one_process() -> None:
    assert choose(LORA_8B, cards(1), 8, ALL) == dataclasses.replace(ALONE, why="it fits one device")


def test_several_devices_that_fit_each_hold_the_model() -> None:
    chosen = choose(LORA_8B, cards(4), 8, ALL)
    assert (chosen.kind, chosen.ranks, chosen.sharding) == ("torchrun", 4, "none")
    assert "4 devices" in chosen.why


def test_what_fits_no_device_lies_in_shards() -> None:
    chosen = choose(FULL_8B, cards(4), 8, ALL)
    assert (chosen.ranks, chosen.sharding, chosen.offload) == (4, "fsdp", "none")


def test_what_fits_no_shards_is_offloaded() -> None:
    chosen = choose(FULL_8B, cards(1), 8, ALL)
    assert (chosen.ranks, chosen.sharding, chosen.offload) == (1, "zero3", "cpu")


def test_what_is_not_open_is_not_chosen() -> None:
    assert choose(FULL_8B, cards(1), 8, ("none", "fsdp")).kind == "local"
    assert choose(LORA_8B, cards(4), 8, ()).kind == "local"


@pytest.mark.parametrize(("batch", "ranks"), [(8, 4), (6, 3), (5, 1), (9, 3), (1, 1)])
def test_a_batch_is_shared_out_evenly(batch: int, ranks: int) -> None:
    assert choose(LORA_8B, cards(4), batch, ALL).ranks == ranks


def test_a_share_is_less_than_the_whole_and_ddp_shares_the_batch_alone() -> None:
    ddp = held(FULL_8B, Spread("torchrun", 4), 4)
    assert ddp.activations == FULL_8B.activations // 4
    assert (ddp.trained, ddp.optimizer) == (FULL_8B.trained, FULL_8B.optimizer)
    totals = [
        held(FULL_8B, Spread("torchrun", 4, sharding, offload), 4).total
        for sharding, offload in (("none", "none"), ("zero2", "none"), ("fsdp", "none"))
    ]
    assert totals == sorted(totals, reverse=True)
    assert held(FULL_8B, Spread("torchrun", 4, "zero3", "cpu"), 4).optimizer == 0
    assert held(FULL_8B, ALONE) == FULL_8B


def test_the_plan_counts_what_a_device_holds_and_how_many_compute(
    smollm: ModelShape, work: Work
) -> None:
    """Two devices in shards: less in each, and half the time of the steps."""

    def shards(method: str, memory: Memory, machine: Machine) -> Spread:
        return Spread("torchrun", 2, "fsdp", why="asked for")

    one = make_plan(smollm, work, [cards(2)], Limits()).choice("full")
    two = make_plan(smollm, work, [cards(2)], Limits(), spread_of=shards).choice("full")
    assert two.memory.total < one.memory.total
    assert two.cost.training_s == pytest.approx(one.cost.training_s / 2)
    assert two.name == "full on this machine, torchrun, 2 x fsdp"


def test_workers_of_ray_have_a_gpu_each_and_share_the_cpu() -> None:
    workers = Spread("ray", 4)
    assert workers.devices(cards(1)) == 4
    assert workers.devices(dataclasses.replace(cards(1), device="cpu")) == 1
    assert Spread("torchrun", 4).devices(cards(2)) == 2


@pytest.mark.parametrize(
    ("spread", "devices", "machines"),
    [
        (Spread("ray", 4), 1, 4),
        (Spread("ray", 4), 4, 1),
        (Spread("ray", 5), 4, 2),
        (Spread("torchrun", 4), 2, 1),
        (ALONE, 1, 1),
    ],
)
def test_every_machine_is_paid_for(
    spread: Spread, devices: int, machines: int, smollm: ModelShape, work: Work
) -> None:
    machine = dataclasses.replace(cards(devices), usd_hour=3.6)
    plan = make_plan(smollm, work, [machine], Limits(), spread_of=lambda *_: spread)
    chosen = plan.choice("lora")
    assert chosen.cost.machines == machines
    assert chosen.cost.usd == pytest.approx(machines * chosen.cost.seconds / 1000)


def test_more_ranks_than_devices_share_a_device() -> None:
    alone = dataclasses.replace(CARDS, devices=1)
    crowd = held(LORA_8B, Spread("torchrun", 2), alone.devices)
    assert crowd.weights == 2 * LORA_8B.weights
    assert crowd.activations == LORA_8B.activations
