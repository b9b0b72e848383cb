"""What a step of the loop has spent, written to the ledger with the step.

Training costs the machine's hours, and what was asked of versions costs their price a token, as for
anybody who asks over HTTP. A step that is killed is charged when it is done: it begins anew.
"""

from collections.abc import Callable, Mapping
from decimal import Decimal
from typing import Any

from trimtab.flows.backends import price_of_tokens
from trimtab.flows.work import Work
from trimtab.inference import Usage
from trimtab.ledger.money import nano
from trimtab.ledger.own import spend
from trimtab.ledger.prices import prices_of
from trimtab.store.database import Connection


def charged(
    work: Work, step: str, key: str, output: Mapping[str, Any]
) -> Callable[[Connection], None]:
    """Writes what the step has spent since the one before it, under the step's own key."""
    # Others that know a price speak of what it would be.
    trained = output.get("usd", 0) if step == "train" else 0
    used, hours = work.meter.take(), nano(Decimal(str(trained)))

    def write(connection: Connection) -> None:
        project = work.project.name
        asked = _asked_nano(connection, work, used)
        for kind, amount in (("training", hours), (step, asked)):
            if amount:
                spend(connection, project, f"{project}/{kind}/{key}", amount, kind)

    return write


def _asked_nano(connection: Connection, work: Work, used: Mapping[str, Usage]) -> int:
    # On trial a version has a name of its own, with its hash before the '+'.
    asked = [(name.partition("+")[0], usage) for name, usage in used.items()]
    prices = prices_of(connection, [version for version, _ in asked])
    # What has no price is not registered: the project's own work in progress.
    others = price_of_tokens(work.project)
    return sum(
        prices.get(version, others).of(usage.prompt, usage.completion, usage.cached)
        for version, usage in asked
    )
