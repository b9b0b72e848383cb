"""What a project says about how its deployment answers: the deadline, and the text of last resort.

A project file is not at a gateway's hand, so `run` and `serve` write this down where it is.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from string import Template

from trimtab.gateway.tables import policies
from trimtab.project import TEMPLATE, Project
from trimtab.store.database import Connection
from trimtab.store.rows import insert_or_update


@dataclass(frozen=True, slots=True)
class Policy:
    """`deadline_s` is for a whole request, over all tiers. `log_prompts` keeps what is asked by the
    deployment's name, and what is answered."""

    deployment: str
    safe_template: str | None = None
    deadline_s: float = 120.0
    log_prompts: bool = False


def filled(template: str, values: Mapping[str, str | None]) -> str:
    """A safe template with its variables filled in; one that is not known is empty."""
    return Template(template).safe_substitute({name: values.get(name) or "" for name in TEMPLATE})


def declare(connection: Connection, project: Project) -> None:
    """Write down what a project's file says now."""
    deploy = project.deploy
    policy = Policy(project.deployment, deploy.safe_template, deploy.deadline_s, deploy.log_prompts)
    insert_or_update(connection, policies, asdict(policy), key=["deployment"])


def list(connection: Connection) -> Mapping[str, Policy]:
    """By deployment."""
    return {row.deployment: Policy(**row._mapping) for row in connection.execute(policies.select())}
