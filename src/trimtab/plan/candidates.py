"""The plan: candidates in the order one should try them, and why the others were refused."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from trimtab.errors import ProjectError
from trimtab.plan.cost import Cost, training_cost
from trimtab.plan.machine import Machine
from trimtab.plan.memory import Memory, training_memory
from trimtab.plan.shape import ModelShape
from trimtab.plan.work import Work

METHODS = ("lora", "qlora", "full")
# What `train` can run today; the others are still weighed, so that the table tells what is missing.
TRAINABLE = ("lora",)
# A prediction may be wrong by this much before a machine runs out of memory.
USABLE = 0.9


@dataclass(frozen=True, slots=True)
class Candidate:
    """One way to train, with what it needs."""

    machine: Machine
    method: str
    memory: Memory
    cost: Cost

    @property
    def name(self) -> str:
        return f"{self.method} on {self.machine.name}"


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


def make_plan(shape: ModelShape, work: Work, machines: Sequence[Machine], limits: Limits) -> Plan:
    """Weigh every method on every machine."""
    fit: list[Candidate] = []
    refused: list[Refused] = []
    for machine in machines:
        for method in METHODS:
            candidate = Candidate(
                machine,
                method,
                training_memory(shape, work, method, machine.dtype),
                training_cost(shape, work, method, machine),
            )
            reasons = _against(candidate, limits)
            if reasons:
                refused.append(Refused(candidate, tuple(reasons), _hint(candidate, limits)))
            else:
                fit.append(candidate)
    fit.sort(key=lambda candidate: (candidate.cost.usd, candidate.cost.seconds))
    return Plan(tuple(fit), tuple(refused))


def _against(candidate: Candidate, limits: Limits) -> list[str]:
    reasons = []
    machine, cost = candidate.machine, candidate.cost
    if candidate.memory.total > USABLE * machine.memory:
        reasons.append(
            f"needs {gigabytes(candidate.memory.total)}, and {gigabytes(machine.memory)} are free"
        )
    if limits.deadline_s is not None and cost.seconds > limits.deadline_s:
        reasons.append(
            f"takes {duration(cost.seconds)}, past the deadline of {duration(limits.deadline_s)}"
        )
    if limits.budget_usd is not None and cost.usd > limits.budget_usd:
        reasons.append(f"costs ${cost.usd:.2f}, over the budget of ${limits.budget_usd:.2f}")
    if candidate.method not in TRAINABLE:
        reasons.append(f"this release trains {', '.join(TRAINABLE)} only")
    return reasons


def _hint(candidate: Candidate, limits: Limits) -> str:
    if candidate.method not in TRAINABLE:
        return f"set train.method to {TRAINABLE[0]}"
    if candidate.memory.total > USABLE * candidate.machine.memory:
        return "lower train.batch_size and raise train.accumulation, or lower train.max_length"
    if limits.deadline_s is not None and candidate.cost.seconds > limits.deadline_s:
        return "lower train.epochs, or raise train.deadline_hours"
    return "lower train.epochs, or raise train.budget_usd"


def _to_json(candidate: Candidate) -> dict[str, Any]:
    return {
        "machine": candidate.machine.name,
        "method": candidate.method,
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
