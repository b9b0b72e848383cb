"""The fields of `evaluate`: the suites, and what the gate decides by."""

from typing import Annotated, Literal

from pydantic import Field, field_validator

from trimtab.project.section import Section


class Evaluate(Section):
    suites: list[Literal["holdout", "safety", "performance"]] = Field(
        default=["holdout", "safety", "performance"]
    )
    match: list[str] = Field(default=[])
    shots: Annotated[int, Field(ge=0, le=8)] = 3
    gate: Literal["exact_match", "log_likelihood", "preference"] = "exact_match"
    max_tokens: Annotated[int, Field(ge=1)] = 48

    @field_validator("suites")
    @classmethod
    def _the_gate_needs_the_holdout(cls, value: list[str]) -> list[str]:
        if "holdout" not in value:
            raise ValueError("the holdout suite decides the gate and cannot be left out")
        return value
