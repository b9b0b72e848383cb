"""The plan: candidates in the order one should try them, and why the others were refused."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from trimtab.errors import ProjectError
from trimtab.plan.cost import Cost, training_cost
from trimtab.plan.fitting import change_that_fits
from trimtab.plan.machine import Machine
from trimtab.plan.memory import METHODS, Memory, card_memory, training_memory
from trimtab.plan.shape import ModelShape
from trimtab.plan.spread import ALONE, Spread, fits, held
from trimtab.plan.work import Work

OTHER_METHOD = "set train.method to one that fits: trimtab plan shows them"


@dataclass(frozen=True, slots=True)
class Candidate:
    """One way to train, with what it needs; `memory` is of one device."""

    machine: Machine
    method: str
    memory: Memory
    cost: Cost
    spread: Spread = ALONE

    @property
    def name(self) -> str:
        where = "" if self.spread.kind == "local" else f", {self.spread}"
        return f"{self.method} on {self.machine.name}{where}"


@dataclass(frozen=True, slots=True)
class Refused:
    """A way that is not open, every reason for it, and what would change that."""

    candidate: Candidate
    reasons: tuple[str, ...]
    hint: str


@dataclass(frozen=True, slots=True)
class Limits:
    """What the project allows; None is no limit."""

    budget_usd: float | None = None
    deadline_s: float | None = None


@dataclass(frozen=True, slots=True)
class Plan:
    """`candidates`, the cheapest and then the quickest first; and the `refused`."""

    candidates: tuple[Candidate, ...]
    refused: tuple[Refused, ...]

    def choice(self, method: str) -> Candidate:
        """The best candidate of a method. Raises ProjectError with the reasons against it."""
        for candidate in self.candidates:
            if candidate.method == method:
                return candidate
        for no in self.refused:
            if no.candidate.method == method:
                raise ProjectError(
                    f"train.method: {no.candidate.name}: {'; '.join(no.reasons)}", hint=no.hint
                )
        raise ProjectError(
            f"train.method: the planner does not know {method!r}",
            hint=f"methods: {', '.join(METHODS)}",
        )

    def to_json(self) -> dict[str, Any]:
        return {
            "candidates": [_to_json(candidate) for candidate in self.candidates],
            "refused": [
                _to_json(no.candidate) | {"reasons": list(no.reasons), "hint": no.hint}
                for no in self.refused
            ],
        }

    def rows(self) -> list[tuple[str, str, str, str, str]]:
        """A table for people: way, memory, time, price, verdict."""
        good = [(candidate, "fits") for candidate in self.candidates]
        bad = [(no.candidate, "; ".join(no.reasons)) for no in self.refused]
        return [
            (
                candidate.name,
                gigabytes(candidate.memory.total),
                duration(candidate.cost.seconds),
                f"${candidate.cost.usd:.2f}",
                verdict,
            )
            for candidate, verdict in good + bad
        ]


Spreads = Callable[[str, Memory, Machine], Spread]


def alone(method: str, memory: Memory, machine: Machine) -> Spread:
    """One process, whatever it needs."""
    return ALONE


def make_plan(
    shape: ModelShape,
    work: Work,
    machines: Sequence[Machine],
    limits: Limits,
    closed: Mapping[str, str] = MappingProxyType({}),
    spread_of: Spreads = alone,
) -> Plan:
    """Weigh every method on every machine; `closed` tells why a method is not open at all, and
    `spread_of` how what a method needs in one process lies over a machine's devices.
    """
    found = [
        _candidate(shape, work, method, machine, spread_of)
        for machine in machines
        for method in METHODS
    ]
    against = [_against(each, limits, closed.get(each.method, "")) for each in found]
    fit = [each for each, reasons in zip(found, against, strict=True) if not reasons]
    fit.sort(key=lambda candidate: (candidate.cost.usd, candidate.cost.seconds))
    refused = []
    for candidate, reasons in zip(found, against, strict=True):
        if not reasons:
            continue
        if candidate.method in closed:
            hint = OTHER_METHOD
        elif fits(candidate.memory, candidate.machine):
            hint = _shorter(candidate, limits)
        else:
            hint = _smaller(shape, work, candidate, spread_of, fit)
        refused.append(Refused(candidate, tuple(reasons), hint))
    return Plan(tuple(fit), tuple(refused))


def _candidate(
    shape: ModelShape, work: Work, method: str, machine: Machine, spread_of: Spreads
) -> Candidate:
    memory = _needed(shape, work, method, machine)
    spread = spread_of(method, memory, machine)
    devices = spread.devices(machine)
    cost = training_cost(shape, work, method, machine, min(spread.ranks, devices))
    return Candidate(machine, method, held(memory, spread, devices), cost, spread)


def _needed(shape: ModelShape, work: Work, method: str, machine: Machine) -> Memory:
    # Several processes are left to transformers, which keeps all activations.
    if machine.device == "cpu" or machine.devices > 1:
        return training_memory(shape, work, method, machine.dtype)
    return card_memory(shape, work, method, machine.dtype, machine.memory)


def _against(candidate: Candidate, limits: Limits, closed: str) -> list[str]:
    reasons = []
    machine, cost = candidate.machine, candidate.cost
    if not fits(candidate.memory, machine):
        reasons.append(
            f"needs {gigabytes(candidate.memory.total)}, and {gigabytes(machine.memory)} are free"
        )
    if limits.deadline_s is not None and cost.seconds > limits.deadline_s:
        reasons.append(
            f"takes {duration(cost.seconds)}, past the deadline of {duration(limits.deadline_s)}"
        )
    if limits.budget_usd is not None and cost.usd > limits.budget_usd:
        reasons.append(f"costs ${cost.usd:.2f}, over the budget of ${limits.budget_usd:.2f}")
    return [*reasons, closed] if closed else reasons


def _smaller(
    shape: ModelShape,
    work: Work,
    candidate: Candidate,
    spread_of: Spreads,
    fit: Sequence[Candidate],
) -> str:
    """The change with which a candidate that needs too much memory would fit."""
    machine, method = candidate.machine, candidate.method

    def holds(cut: Work) -> bool:
        found = _candidate(shape, cut, method, machine, spread_of)
        # A rank computes one row of a batch at least.
        return cut.batch_size % found.spread.ranks == 0 and fits(found.memory, machine)

    others = [other.method for other in fit if other.machine is machine]
    change = change_that_fits(work, holds, others)
    return f"what fits: {change}" if change else "no method fits here: choose a smaller base"


def _shorter(candidate: Candidate, limits: Limits) -> str:
    if limits.deadline_s is not None and candidate.cost.seconds > limits.deadline_s:
        return "lower train.epochs, or raise train.deadline_hours"
    return "lower train.epochs, or raise train.budget_usd"


def _to_json(candidate: Candidate) -> dict[str, Any]:
    return {
        "machine": candidate.machine.name,
        "method": candidate.method,
        "spread": candidate.spread.to_json(),
        "memory": candidate.memory.to_json(),
        "memory_free": candidate.machine.memory,
        "cost": candidate.cost.to_json(),
    }


def gigabytes(amount: int) -> str:
    return f"{amount / 1e9:.1f} GB"


def duration(seconds: float) -> str:
    """Seconds below two minutes, minutes below two hours, then hours."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    if seconds < 7200:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"
