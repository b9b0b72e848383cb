"""A way that needs too much memory is refused with a change, and with that change it fits."""

import dataclasses

import pytest

from trimtab.plan.candidates import Limits, Plan, make_plan
from trimtab.plan.fitting import Change, change_that_fits
from trimtab.plan.machine import Machine
from trimtab.plan.memory import METHODS
from trimtab.plan.shape import ModelShape
from trimtab.plan.work import Packed, Work

WIDE = {"batch_size": 16, "longest": 900}


def planned(shape: ModelShape, work: Work, machine: Machine, memory: float) -> Plan:
    return make_plan(shape, work, [dataclasses.replace(machine, memory=int(memory))], Limits())


def changed(work: Work, told: str) -> Work:
    """The work with the fields that a hint names."""
    for field in told.removeprefix("what fits: ").split(" and "):
        name, _, value = field.removeprefix("train.").partition(": ")
        if name == "batch_size":
            work = work.in_batches_of(int(value))
        elif name == "accumulation":
            assert work.accumulation == int(value)
        elif name == "max_length":
            work = work.cut_at(int(value))
    return work


@pytest.mark.parametrize("packed", [None, Packed(40, 110, 14_000, 4_000, 9, 900, 260)])
@pytest.mark.parametrize("memory", [1.6e9, 2e9, 3e9, 5e9])
def test_with_the_change_it_fits(
    smollm: ModelShape, work: Work, machine: Machine, memory: float, packed: Packed | None
) -> None:
    work = dataclasses.replace(work, **WIDE, packed=packed)
    plan = planned(smollm, work, machine, memory)
    told = {no.candidate.method: no.hint for no in plan.refused}
    assert told
    fitted = {method: hint for method, hint in told.items() if "train.batch_size" in hint}
    assert "lora" in fitted
    for method, hint in fitted.items():
        plan = planned(smollm, changed(work, hint), machine, memory)
        assert method in {candidate.method for candidate in plan.candidates}, (method, hint)


def test_the_step_stays_the_same_while_it_can(
    smollm: ModelShape, work: Work, machine: Machine
) -> None:
    work = dataclasses.replace(work, **WIDE, accumulation=2)
    hints = [
        next(no.hint for no in planned(smollm, work, machine, memory).refused)
        for memory in (6e9, 1.6e9)
    ]
    assert hints[0] == "what fits: train.batch_size: 2 and train.accumulation: 16"
    assert hints[1].startswith("what fits: train.batch_size: 1 and train.accumulation: 32 and ")
    assert "train.max_length: " in hints[1]


def test_where_weights_are_too_much_another_method_is_named(
    smollm: ModelShape, work: Work, machine: Machine
) -> None:
    plan = planned(smollm, dataclasses.replace(work, longest=70), machine, 2e9)
    assert next(no.hint for no in plan.refused if no.candidate.method == "full") == (
        f"what fits: train.method: {plan.candidates[0].method}"
    )
    nothing = planned(smollm, work, machine, 5e8)
    assert len(nothing.refused) == len(METHODS)
    assert {no.hint for no in nothing.refused} == {"no method fits here: choose a smaller base"}


def test_a_change_leaves_half_of_the_records(work: Work) -> None:
    even = dataclasses.replace(work, longest=510, median=500)
    assert change_that_fits(even, lambda cut: cut.longest <= 300, ["ia3"]) == Change(
        {"method": "ia3"}
    )
    uneven = dataclasses.replace(work, longest=510, median=200)
    change = change_that_fits(uneven, lambda cut: cut.longest <= 300, [])
    assert change is not None
    assert change.fields["max_length"] == 300


def test_a_prompt_leaves_room_for_an_answer(work: Work) -> None:
    prompts = dataclasses.replace(work, rows=4, written=64, longest=464)
    change = change_that_fits(prompts, lambda cut: cut.longest <= 264, [])
    assert change is not None
    assert change.fields["max_length"] == 200


def test_a_batch_that_ranks_cannot_share_out_is_not_named(work: Work) -> None:
    wide = dataclasses.replace(work, **WIDE)
    change = change_that_fits(
        wide, lambda cut: cut.batch_size % 2 == 0 and cut.longest <= 300 and cut.batch_size <= 2, []
    )
    assert change == Change(
        {"batch_size": 2, "accumulation": 8 * work.accumulation, "max_length": 300}
    )


def test_the_fullest_row_fits_a_batch_of_its_own(work: Work) -> None:
    packed = dataclasses.replace(
        work, batch_size=2, packed=Packed(3, 21, 712, 300, 20, 512, 280)
    ).in_batches_of(1)
    assert packed.packed == Packed(6, 20, 512, 280, 20, 512, 280)


def test_answers_of_its_own_are_counted_and_a_comparison_keeps_its_rows(work: Work) -> None:
    prompts = dataclasses.replace(work, rows=4, written=64)
    change = change_that_fits(prompts, lambda cut: cut.batch_size <= 2, [])
    assert change == Change({"batch_size": 8, "accumulation": 4})
    pairs = dataclasses.replace(work, fewest=2)
    assert change_that_fits(pairs, lambda cut: cut.batch_size <= 1, []) is None
