"""The steps of the loop, in their order. The names are the journal's keys.

Each is a file with two functions: `inputs` says what decides the step's result, and `work` makes
it. A step whose inputs were seen before is not done again.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from trimtab.flows.steps import (
    data,
    evaluate,
    gate,
    plan,
    promote,
    register,
    shadow,
    train,
    verify,
)
from trimtab.flows.work import Outputs, Result, Work


@dataclass(frozen=True)
class Step:
    name: str
    inputs: Callable[[Work, Outputs], dict[str, Any]]
    work: Callable[[Work, Outputs], Result]


STEPS = (
    Step("data", data.inputs, data.work),
    Step("plan", plan.inputs, plan.work),
    Step("train", train.inputs, train.work),
    Step("register", register.inputs, register.work),
    Step("verify", verify.inputs, verify.work),
    Step("evaluate", evaluate.inputs, evaluate.work),
    Step("gate", gate.inputs, gate.work),
    Step("shadow", shadow.inputs, shadow.work),
    Step("promote", promote.inputs, promote.work),
)
