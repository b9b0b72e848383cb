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
from trimtab.ledger.own import spend, spend_in_all
from trimtab.ledger.prices import prices_of
from trimtab.store.database import Connection


def charged(
    work: Work, step: str, key: str, output: Mapping[str, Any]
) -> Callable[[Connection], None]:
    """Writes what the step has spent since the one before it. What was asked is named by the step's
    own key, the hours of training by their run."""
    used, project = work.meter.take(), work.project.name
    # What is asked while it trains are the questions to a judge.
    kind = "judge" if step == "train" else step

    def write(connection: Connection) -> None:
        # Of the other outputs, those that know a price speak of what it would be.
        if step == "train":
            bill_training(connection, project, output["run"], output["usd"])
        if asked := _asked_nano(connection, work, used):
            spend(connection, project, f"{project}/{kind}/{key}", asked, kind)

    return write


def bill_training(connection: Connection, project: str, run: str, usd: float) -> None:
    """Charge what a run has cost in all so far. It is one run for every release, project and sweep
    that comes upon it, and is paid once; where it went on, the rest."""
    total = nano(Decimal(str(usd)))
    spend_in_all(connection, project, f"training/{run}", total, "training")


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
