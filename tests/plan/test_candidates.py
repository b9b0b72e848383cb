import dataclasses

import pytest

from trimtab.errors import ProjectError
from trimtab.plan.candidates import Limits, duration, make_plan
from trimtab.plan.machine import Machine, this_machine
from trimtab.plan.memory import METHODS
from trimtab.plan.shape import ModelShape
from trimtab.plan.work import Work


def test_every_method_is_weighed_and_one_that_is_closed_says_why(
    smollm: ModelShape, work: Work, machine: Machine
) -> None:
    plan = make_plan(smollm, work, [machine], Limits(), {"full": "the moon is full"})
    assert {candidate.method for candidate in plan.candidates} == set(METHODS) - {"full"}
    [refused] = plan.refused
    assert refused.reasons == ("the moon is full",)
    assert plan.choice("lora").machine is machine


def test_every_reason_is_told(smollm: ModelShape, work: Work, machine: Machine) -> None:
    small = dataclasses.replace(machine, memory=10**9, usd_hour=100.0)
    plan = make_plan(
        smollm, work, [small], Limits(budget_usd=0.01, deadline_s=5), {"full": "only so"}
    )
    full = next(no for no in plan.refused if no.candidate.method == "full")
    told = "; ".join(full.reasons)
    for word in ("GB are free", "past the deadline of 5 s", "over the budget of $0.01", "only"):
        assert word in told
    assert plan.candidates == ()


@pytest.mark.parametrize(
    ("change", "limits", "hint"),
    [
        ({"memory": 1_600_000_000}, Limits(), "what fits: train.batch_size: "),
        ({"memory": 10**9}, Limits(), "choose a smaller base"),
        ({}, Limits(deadline_s=5), "train.deadline_hours"),
        ({"usd_hour": 100.0}, Limits(budget_usd=0.01), "train.budget_usd"),
    ],
)
def test_a_refusal_hints_at_what_would_help(
    smollm: ModelShape,
    work: Work,
    machine: Machine,
    change: dict[str, float],
    limits: Limits,
    hint: str,
) -> None:
    plan = make_plan(smollm, work, [dataclasses.replace(machine, **change)], limits)
    with pytest.raises(ProjectError, match=r"train\.method: lora on desk: ") as caught:
        plan.choice("lora")
    assert hint in caught.value.hint


def test_an_unknown_method_lists_the_known(
    smollm: ModelShape, work: Work, machine: Machine
) -> None:
    with pytest.raises(ProjectError) as caught:
        make_plan(smollm, work, [machine], Limits()).choice("lore")
    assert ", ".join(METHODS) in caught.value.hint


def test_the_cheapest_comes_first_and_then_the_quickest(
    smollm: ModelShape, work: Work, machine: Machine
) -> None:
    quick = dataclasses.replace(machine, name="quick", rate=600e9)
    rented = dataclasses.replace(machine, name="rented", rate=900e9, usd_hour=1.0)
    plan = make_plan(smollm, work, [rented, machine, quick], Limits())
    lora = [c.machine.name for c in plan.candidates if c.method == "lora"]
    assert lora == ["quick", "desk", "rented"]


def test_the_table_has_a_row_for_each_way(smollm: ModelShape, work: Work, machine: Machine) -> None:
    plan = make_plan(smollm, work, [machine], Limits())
    rows = plan.rows()
    assert {row[0] for row in rows} == {f"{method} on desk" for method in METHODS}
    assert rows[0][-1] == "fits"
    assert len(plan.to_json()["candidates"]) == len(METHODS)


def test_durations_read_well() -> None:
    assert [duration(s) for s in (7.2, 200, 9000)] == ["7 s", "3 min", "2.5 h"]


def test_this_machine_has_memory_and_cores() -> None:
    found = this_machine(device="cpu", dtype="float32", rate=1e11)
    assert found.memory > 2**28
    assert found.cores >= 1
    card = this_machine(device="cuda", dtype="bfloat16", rate=1e14, device_memory=80 * 10**9)
    assert card.memory == 80 * 10**9
