"""The fields of `deploy`: who answers, what it promises, and what it says without a model."""

from string import Template
from typing import Annotated

from pydantic import Field, field_validator

from trimtab.project.section import Name, Section

# What a safe template may speak of.
TEMPLATE = ("deployment", "trace_id", "session_id", "user_id", "reason")


class Slo(Section):
    p95_ms: Annotated[float, Field(gt=0)] = 1200
    availability: Annotated[float, Field(gt=0, le=1)] = 0.995


class Shadow(Section):
    requests: Annotated[int, Field(ge=1)] = 20


class Deploy(Section):
    """`safe_template` answers when no model can; its `$variables` are those of `TEMPLATE`.
    `log_prompts` keeps what is asked and answered, which is kept nowhere else.
    """

    name: Name | None = None
    slo: Slo = Slo()
    shadow: Shadow = Shadow()
    deadline_s: Annotated[float, Field(gt=0, le=600, allow_inf_nan=False)] = 120.0
    safe_template: Annotated[str, Field(min_length=1, max_length=4000)] | None = None
    log_prompts: bool = False

    @field_validator("safe_template")
    @classmethod
    def _its_variables_are_known(cls, value: str | None) -> str | None:
        if value is None:
            return None
        template = Template(value)
        unknown = sorted(set(template.get_identifiers()) - set(TEMPLATE))
        if unknown or not template.is_valid():
            raise ValueError(
                f"has an unknown variable '${unknown[0]}'; known: "
                f"{', '.join('$' + name for name in TEMPLATE)}"
                if unknown
                else "has a lone '$'; write '$$' for a dollar sign"
            )
        return value
